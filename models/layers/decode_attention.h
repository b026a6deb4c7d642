// models/layers/decode_attention.h: attention of a few new positions over a K/V cache, bound by
// reading the cache once.
#pragma once

#include <torch/types.h>

#include "models/layers/kv_cache.h"

namespace regroup {

/// queries: [B, T, n_head, head_dim], the positions past .. past + T - 1, whose own keys and values
/// are in the cache already -> [B, T, n_head * head_dim]. Each position sees those up to itself;
/// sums in float32.
torch::Tensor decode_attention(const torch::Tensor& queries, const LayerCache& cache, int64_t past);

}  // namespace regroup
