#include "models/layers/kv_cache.h"

#include <torch/types.h>

namespace regroup {

KvCache::KvCache(const DecoderConfig& config, int64_t batch, int64_t capacity,
                 torch::TensorOptions options) {
  for (const auto& layer : config.layers) {
    const std::vector<int64_t> shape{batch, layer.attention.n_kv_head, capacity,
                                     layer.attention.head_dim};
    layers_.push_back({torch::empty(shape, options), torch::empty(shape, options)});
  }
}

}  // namespace regroup
