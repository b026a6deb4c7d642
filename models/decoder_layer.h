// models/decoder_layer.h: the forward pass of one layer, split where conversion reads its
// activations.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "models/decoder_config.h"
#include "models/layers/attention.h"
#include "models/layers/kv_cache.h"
#include "models/layers/rope.h"

namespace regroup {

/// A layer's cache and the number of positions it already holds.
struct CachedPositions {
  LayerCache& cache;
  int64_t past;
};

/// A layer over the gathered weights of its block. B sequences, T positions, d = d_model; x is the
/// residual stream before the layer, [B * T, d].
class DecoderLayer {
 public:
  /// weights: the block's FlatParameters::gather().
  DecoderLayer(const DecoderConfig& config, int64_t layer, std::vector<torch::Tensor> weights);

  /// The normed input of attention, [B * T, d].
  torch::Tensor normed(const torch::Tensor& x) const;
  /// Queries, keys and values of all heads before RoPE: [B, T, (n_head + 2 * n_kv_head) *
  /// head_dim].
  torch::Tensor qkv(const torch::Tensor& x, int64_t batch) const;
  /// Concatenated head outputs, before the output projection: [B * T, n_head * head_dim].
  torch::Tensor attended(const torch::Tensor& x, int64_t batch, const RopeAngles& angles) const;
  /// The same, for positions that continue a cache.
  torch::Tensor attended(const torch::Tensor& x, int64_t batch, const RopeAngles& angles,
                         const CachedPositions& cached) const;
  /// x + the output projection of `attended`: [B * T, d].
  torch::Tensor after_attention(const torch::Tensor& attended, const torch::Tensor& x) const;
  /// The same, computing `attended` from x.
  torch::Tensor after_attention(const torch::Tensor& x, int64_t batch,
                                const RopeAngles& angles) const;
  /// The residual stream after the layer, given that after attention: [B * T, d].
  torch::Tensor after_mlp(const torch::Tensor& x) const;

  const AttentionShape& shape() const { return shape_; }

 private:
  double norm_eps_;
  AttentionShape shape_;
  std::vector<torch::Tensor> weights_;
};

}  // namespace regroup
