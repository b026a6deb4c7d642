// models/layers/decoder_layer.h: the forward pass of one layer, split where conversion reads its
// activations.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "models/config/decoder_config.h"
#include "models/config/decoder_parameters.h"
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
  /// weights: FlatParameters::gather() of the block. config must outlive this.
  DecoderLayer(const LayerConfig& config, const DecoderBlock& block,
               const std::vector<torch::Tensor>& weights);

  /// The input of attention's projections, [B * T, d]: x through attention_in, if there is one.
  torch::Tensor attention_input(const torch::Tensor& x) const;
  /// Queries, keys and values of all heads before RoPE: [B, T, (n_head + 2 * n_kv_head) *
  /// head_dim].
  torch::Tensor qkv(const torch::Tensor& x, int64_t batch) const;
  /// qkv() of an attention_input(x) that is there already.
  torch::Tensor qkv_of_input(const torch::Tensor& input, int64_t batch) const;
  /// Concatenated head outputs, before the output projection: [B * T, n_head * head_dim].
  torch::Tensor attended(const torch::Tensor& x, int64_t batch, const RopeAngles& angles) const;
  /// The same, for positions that continue a cache.
  torch::Tensor attended(const torch::Tensor& x, int64_t batch, const RopeAngles& angles,
                         const CachedPositions& cached) const;
  /// The output projection of `attended`: [B * T, d].
  torch::Tensor written(const torch::Tensor& attended) const;
  /// The residual stream with what was written, through the norms between: [B * T, d].
  torch::Tensor joined(const torch::Tensor& written, const torch::Tensor& x) const;
  /// joined(written(attended), x), fused: the residual stream after attention.
  torch::Tensor after_attention(const torch::Tensor& attended, const torch::Tensor& x) const;
  /// The same, computing `attended` from x.
  torch::Tensor after_attention(const torch::Tensor& x, int64_t batch,
                                const RopeAngles& angles) const;
  /// The residual stream after the layer. y: that after attention. -> [B * T, d].
  torch::Tensor after_mlp(const torch::Tensor& y, const torch::Tensor& x) const;

  const AttentionConfig& attention_config() const { return config_.attention; }

 private:
  struct Weights {
    std::optional<Norm> attention_in, attention_out, mlp_in, mlp_out, query_norm, key_norm;
    LinearWeights qkv, output, gate_up, down;
  };
  static Weights by_role(const LayerConfig& config, const DecoderBlock& block,
                         const std::vector<torch::Tensor>& weights);
  torch::Tensor clipped_and_normed(torch::Tensor qkv) const;
  torch::Tensor with_normed_heads(const torch::Tensor& qkv) const;

  const LayerConfig& config_;
  Weights weights_;
};

/// A layer of the model over its block's values. config must outlive it.
DecoderLayer decoder_layer(const DecoderConfig& config, int64_t layer, const FlatParameters& block);

}  // namespace regroup
