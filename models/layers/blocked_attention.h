// models/layers/blocked_attention.h: attention computed with its weights, one block of queries at a
// time. models/convert/ uses it, where the weights themselves are needed and where projections are
// trained for some of the queries. Here the graph keeps them: n_head * T * T numbers per sequence.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "framework/kernels/score_rule.h"
#include "models/layers/heads.h"

namespace regroup {

/// Queries first .. first + count - 1, which see the keys before first + count.
struct QueryBlock {
  int64_t first, count;
  int64_t seen() const { return first + count; }
};
std::vector<QueryBlock> query_blocks(int64_t n_positions);

/// heads: rotated, from position 0. -> the softmax of the block's scores: [B, n_kv_head, n_head /
/// n_kv_head, count, seen].
torch::Tensor attention_weights(const Heads& heads, const ScoreRule& rule, const QueryBlock& block);

/// As attention(), but only for the queries of these blocks: [B, their number, n_head * head_dim].
torch::Tensor blocked_attention(const Heads& heads, const ScoreRule& rule,
                                const std::vector<QueryBlock>& blocks);

}  // namespace regroup
