#include "models/decoder_layer.h"

#include <torch/types.h>

#include "framework/functions/linear.h"

namespace regroup {
namespace {

using torch::Tensor;

// The order of a layer's operands in its block (decoder_config.cpp).
enum Operand : size_t { kAttentionNorm, kQkvProj, kOProj, kMlpNorm, kGateUpProj, kDownProj };

}  // namespace

DecoderLayer::DecoderLayer(const DecoderConfig& config, int64_t layer, std::vector<Tensor> weights)
    : norm_eps_(config.norm_eps),
      shape_{config.n_head, config.n_kv_head[static_cast<size_t>(layer)], config.head_dim},
      weights_(std::move(weights)) {}

Tensor DecoderLayer::normed(const Tensor& x) const {
  return regroup::rms_norm(x, weights_[kAttentionNorm], norm_eps_);
}

Tensor DecoderLayer::qkv(const Tensor& x, int64_t batch) const {
  return rms_norm_linear(x, weights_[kAttentionNorm], norm_eps_, weights_[kQkvProj])
      .unflatten(0, {batch, -1});
}

Tensor DecoderLayer::attended(const Tensor& x, int64_t batch, const RopeAngles& angles) const {
  return attention(qkv(x, batch), shape_, angles).flatten(0, 1);
}

Tensor DecoderLayer::attended(const Tensor& x, int64_t batch, const RopeAngles& angles,
                              const CachedPositions& cached) const {
  return cached_attention(qkv(x, batch), shape_, angles, cached.cache, cached.past).flatten(0, 1);
}

Tensor DecoderLayer::after_attention(const Tensor& attended, const Tensor& x) const {
  return regroup::linear(attended, weights_[kOProj], x);
}

Tensor DecoderLayer::after_attention(const Tensor& x, int64_t batch,
                                     const RopeAngles& angles) const {
  return after_attention(attended(x, batch, angles), x);
}

Tensor DecoderLayer::after_mlp(const Tensor& x) const {
  const auto gate_up = rms_norm_linear(x, weights_[kMlpNorm], norm_eps_, weights_[kGateUpProj]);
  return swiglu_linear(gate_up, weights_[kDownProj], x);
}

}  // namespace regroup
