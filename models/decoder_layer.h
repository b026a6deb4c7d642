// models/decoder_layer.h: the forward pass of one block, in the halves that conversion looks
// between.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "models/decoder_config.h"
#include "models/layers/attention.h"
#include "models/layers/kv_cache.h"
#include "models/layers/rope.h"

namespace regroup {

/// A layer's cache and the number of positions that it holds already.
struct CachedPositions {
  LayerCache& cache;
  int64_t past;
};

/// A layer over the gathered weights of its block. B is sequences, T positions, d d_model; x is the
/// residual stream before the layer, [B * T, d].
class DecoderLayer {
 public:
  /// weights: the block's FlatParameters::gather().
  DecoderLayer(const DecoderConfig& config, int64_t layer, std::vector<torch::Tensor> weights);

  /// What attention sees, [B * T, d].
  torch::Tensor normed(const torch::Tensor& x) const;
  /// Queries, keys and values of all heads, not yet rotated: [B, T, (n_head + 2 * n_kv_head) *
  /// head_dim].
  torch::Tensor qkv(const torch::Tensor& x, int64_t batch) const;
  /// What the heads make of the sequences, before the output projection: [B * T, n_head *
  /// head_dim].
  torch::Tensor attended(const torch::Tensor& x, int64_t batch, const RopeAngles& angles) const;
  /// The same for positions that follow those in a cache.
  torch::Tensor attended(const torch::Tensor& x, int64_t batch, const RopeAngles& angles,
                         const CachedPositions& cached) const;
  /// x + the output projection of what the heads made: [B * T, d].
  torch::Tensor after_attention(const torch::Tensor& attended, const torch::Tensor& x) const;
  /// The same from x alone.
  torch::Tensor after_attention(const torch::Tensor& x, int64_t batch,
                                const RopeAngles& angles) const;
  /// The residual stream after the layer, from that after attention: [B * T, d].
  torch::Tensor after_mlp(const torch::Tensor& x) const;

  const AttentionShape& shape() const { return shape_; }

 private:
  double norm_eps_;
  AttentionShape shape_;
  std::vector<torch::Tensor> weights_;
};

}  // namespace regroup
