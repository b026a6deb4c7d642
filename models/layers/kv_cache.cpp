#include "models/layers/kv_cache.h"

#include <torch/types.h>

namespace regroup {

KvCache::KvCache(const DecoderConfig& config, int64_t batch, int64_t capacity,
                 torch::TensorOptions options) {
  for (const int64_t n_kv_head : config.n_kv_head) {
    const std::vector<int64_t> shape{batch, n_kv_head, capacity, config.head_dim};
    layers_.push_back({torch::empty(shape, options), torch::empty(shape, options)});
  }
}

}  // namespace regroup
