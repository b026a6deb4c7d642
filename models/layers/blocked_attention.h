// models/layers/blocked_attention.h: attention computed with its weights, one block of queries at a
// time. models/convert/ uses it, where the weights themselves are needed and where projections are
// trained on short sequences on the CPU: in bfloat16 it takes half the time of ATen's attention,
// which recomputes the weights in backward. Here the graph keeps them: n_head * T * T numbers per
// sequence.
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

/// qkv: as in attention(), rotated in place.
GroupedHeads grouped_heads(const torch::Tensor& qkv, const AttentionShape& shape,
                           const RopeAngles& angles);

/// Queries first .. first + count - 1, which see the keys 0 .. first + count - 1.
struct QueryBlock {
  int64_t first, count;
  int64_t seen() const { return first + count; }
};
std::vector<QueryBlock> query_blocks(int64_t n_positions);

/// softmax(q kᵀ / sqrt(head_dim), causal) of the block: [B, n_kv_head, n_head / n_kv_head, count,
/// seen].
torch::Tensor attention_weights(const GroupedHeads& heads, const QueryBlock& block);

/// As attention(), but only for the queries of these blocks: [B, their number, n_head * head_dim].
torch::Tensor blocked_attention(const torch::Tensor& qkv, const AttentionShape& shape,
                                const RopeAngles& angles, const std::vector<QueryBlock>& blocks);

}  // namespace regroup
