// models/layers/attention.h: causal self-attention with any number of K/V heads, MHA, GQA and MQA
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

/// Queries, keys and values, [B, heads, T, head_dim] each, of qkv as attention takes it: views of
/// it, in which queries and keys were rotated.
std::vector<torch::Tensor> rotary_qkv(const torch::Tensor& qkv, const AttentionShape& shape,
                                      const RopeAngles& angles);

/// Attention of B sequences over themselves, position 0 first. qkv: [B, T, (n_head + 2 * n_kv_head)
/// * head_dim], the query heads first, then key heads, then value heads; consumed: queries and keys
/// are rotated in place.
/// -> [B, T, n_head * head_dim]. K and V are not repeated.
torch::Tensor attention(const torch::Tensor& qkv, const AttentionShape& shape,
                        const RopeAngles& angles);

/// The same for the T positions after those in the cache, which they join; without a graph.
/// past: positions in the cache before this call; angles are those of the new positions.
torch::Tensor cached_attention(const torch::Tensor& qkv, const AttentionShape& shape,
                               const RopeAngles& angles, LayerCache& cache, int64_t past);

}  // namespace regroup
