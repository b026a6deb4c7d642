// models/layers/heads.h: queries, keys and values by head, out of the one product that makes them.
#pragma once

#include <torch/types.h>

#include "models/config/decoder_config.h"
#include "models/layers/rope.h"

namespace regroup {

/// Heads of B sequences. queries: [B, n_head, T, head_dim], keys, values: [B, n_kv_head, T,
/// head_dim].
struct Heads {
  torch::Tensor queries, keys, values;
};

/// qkv by head, [B, T, n_head + 2 * n_kv_head, head_dim], a view without a graph.
torch::Tensor all_heads(const torch::Tensor& qkv, const AttentionConfig& config);

/// Rotates the queries and keys of all_heads() in place; without angles nothing is rotated.
/// direction: 1 rotates, -1 rotates back.
void rotate_queries_and_keys(const torch::Tensor& heads, const AttentionConfig& config,
                             const RopeAngles& angles, int direction);

/// Views of qkv, whose queries and keys are rotated in place; without angles nothing is rotated.
/// qkv: [B, T, (n_head + 2 * n_kv_head) * head_dim], query heads first, then key heads, then value
/// heads.
Heads rotated_heads(const torch::Tensor& qkv, const AttentionConfig& config,
                    const RopeAngles& angles);

}  // namespace regroup
