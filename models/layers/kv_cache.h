// models/layers/kv_cache.h: keys and values of past positions. Fewer K/V heads make it smaller.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "models/config/decoder_config.h"

namespace regroup {

/// Keys and values of one layer: [B, n_kv_head, capacity, head_dim].
struct LayerCache {
  torch::Tensor keys, values;
};

class KvCache {
 public:
  /// Allocates `capacity` positions for a batch of sequences of equal length.
  KvCache(const DecoderConfig& config, int64_t batch, int64_t capacity,
          torch::TensorOptions options);

  LayerCache& layer(int64_t index) { return layers_[static_cast<size_t>(index)]; }
  /// The number of positions stored, the same in every layer.
  int64_t length() const { return length_; }
  /// Adds to length(), after all layers have stored the positions.
  void advance(int64_t positions) { length_ += positions; }
  void clear() { length_ = 0; }

 private:
  std::vector<LayerCache> layers_;
  int64_t length_ = 0;
};

}  // namespace regroup
