// models/layers/blocked_attention.h: attention from its weights, a block of queries at a time with
// the keys that they see. Where the weights themselves are asked for, and where short sequences are
// trained on the CPU: in bfloat16 this takes half the time of ATen's, whose weights are computed
// anew in backward; here they are kept, n_head * T * T numbers a sequence.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "models/layers/attention.h"

namespace regroup {

/// Rotated heads of B sequences. queries: [B, n_kv_head, n_head / n_kv_head, T, head_dim], divided
/// by sqrt(head_dim); keys, values: [B, n_kv_head, T, head_dim].
struct GroupedHeads {
  torch::Tensor queries, keys, values;
};

/// qkv: as attention takes it; consumed.
GroupedHeads grouped_heads(const torch::Tensor& qkv, const AttentionShape& shape,
                           const RopeAngles& angles);

/// Queries first .. first + count - 1 and the keys 0 .. first + count - 1.
struct QueryBlock {
  int64_t first, count;
  int64_t seen() const { return first + count; }
};
std::vector<QueryBlock> query_blocks(int64_t n_positions);

/// softmax(q kᵀ / sqrt(head_dim), causal) of the block: [B, n_kv_head, n_head / n_kv_head, count,
/// seen].
torch::Tensor attention_weights(const GroupedHeads& heads, const QueryBlock& block);

/// What attention gives, from the same, at the queries of these blocks, one block after the other.
torch::Tensor blocked_attention(const torch::Tensor& qkv, const AttentionShape& shape,
                                const RopeAngles& angles, const std::vector<QueryBlock>& blocks);

}  // namespace regroup
