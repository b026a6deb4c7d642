// models/layers/attention.h: causal self-attention with any number of K/V heads: MHA, GQA and MQA
// in one path. Query heads share K/V heads in groups of neighbours: query head i reads K/V head
// i / (n_head / n_kv_head) (Shazeer 2019; Ainslie et al. 2023, fig. 2).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "models/config/decoder_config.h"
#include "models/layers/kv_cache.h"
#include "models/layers/rope.h"

namespace regroup {

/// Attention of B sequences that start at position 0. qkv: as in rotated_heads(), rotated in place.
/// -> [B, T, n_head * head_dim]. Does not repeat K and V in memory.
torch::Tensor attention(const torch::Tensor& qkv, const AttentionConfig& config,
                        const RopeAngles& angles);

/// As attention(), for T positions that follow those in the cache, without a graph. Stores the new
/// keys and values in the cache. past: positions in the cache before this call. angles: of the new
/// positions.
torch::Tensor cached_attention(const torch::Tensor& qkv, const AttentionConfig& config,
                               const RopeAngles& angles, LayerCache& cache, int64_t past);

}  // namespace regroup
