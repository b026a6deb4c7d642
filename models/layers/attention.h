// models/layers/attention.h: causal self-attention with any number of K/V heads: MHA, GQA and MQA
// in one path.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "models/layers/kv_cache.h"
#include "models/layers/rope.h"

namespace regroup {

/// n_head query heads share n_kv_head K/V heads in groups of neighbours: query head i reads K/V
/// head i / (n_head / n_kv_head) (Shazeer 2019; Ainslie et al. 2023, fig. 2).
struct AttentionShape {
  int64_t n_head, n_kv_head, head_dim;
};

/// Rotated queries, rotated keys, and values, each a view of qkv: [B, heads, T, head_dim]. qkv: as
/// in attention(), rotated in place.
std::vector<torch::Tensor> rotary_qkv(const torch::Tensor& qkv, const AttentionShape& shape,
                                      const RopeAngles& angles);

/// Attention of B sequences that start at position 0. qkv: [B, T, (n_head + 2 * n_kv_head) *
/// head_dim], query heads first, then key heads, then value heads; its queries and keys are rotated
/// in place.
/// -> [B, T, n_head * head_dim]. Does not repeat K and V in memory.
torch::Tensor attention(const torch::Tensor& qkv, const AttentionShape& shape,
                        const RopeAngles& angles);

/// As attention(), for T positions that follow those in the cache, without a graph. Stores the new
/// keys and values in the cache. past: positions in the cache before this call. angles: of the new
/// positions.
torch::Tensor cached_attention(const torch::Tensor& qkv, const AttentionShape& shape,
                               const RopeAngles& angles, LayerCache& cache, int64_t past);

}  // namespace regroup
