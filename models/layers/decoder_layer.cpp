#include "models/layers/decoder_layer.h"

#include <torch/types.h>

#include "framework/functions/linear.h"

namespace regroup {
namespace {

using torch::Tensor;
using Wiring = LayerConfig::Wiring;

Tensor normed_or_same(const Tensor& x, const std::optional<Norm>& norm) {
  return norm ? normed(x, *norm) : x;
}

Tensor linear_of_normed(const Tensor& x, const std::optional<Norm>& norm,
                        const LinearWeights& weights) {
  return norm ? norm_linear(x, *norm, weights) : regroup::linear(x, weights);
}

/// heads: [..., heads, head_dim]; the gain's shape says over what the norm goes (QkNormConfig).
Tensor normed_heads(const Tensor& heads, const Norm& norm, QkNormConfig::Over over) {
  const auto rows = heads.contiguous();
  switch (over) {
    case QkNormConfig::Over::kHead:
      return normed(rows.flatten(0, -2), norm).view(rows.sizes());
    case QkNormConfig::Over::kAllHeads:
      return normed(rows.flatten(-2).flatten(0, -2), norm).view(rows.sizes());
    case QkNormConfig::Over::kHeads: {
      auto y = normed(rows.flatten(0, -2), {norm.kind, norm.eps}).view(rows.sizes());
      if (norm.gain.defined()) y = y * norm.gain;
      return norm.bias.defined() ? y + norm.bias : y;
    }
  }
  TORCH_CHECK(false, "not a norm of heads");
}

}  // namespace

DecoderLayer::DecoderLayer(const LayerConfig& config, const DecoderBlock& block,
                           const std::vector<Tensor>& weights)
    : config_(config), weights_(by_role(config, block, weights)) {}

DecoderLayer::Weights DecoderLayer::by_role(const LayerConfig& config, const DecoderBlock& block,
                                            const std::vector<Tensor>& weights) {
  const auto norm = [&](Role role, const std::optional<NormConfig>& rule) {
    return rule ? std::optional<Norm>(block.norm(weights, role, *rule)) : std::nullopt;
  };
  const auto& qk_norm = config.attention.qk_norm;
  const auto of_heads = qk_norm ? std::optional<NormConfig>(qk_norm->norm) : std::nullopt;
  return {.attention_in = norm(Role::kAttentionIn, config.attention_in),
          .attention_out = norm(Role::kAttentionOut, config.attention_out),
          .mlp_in = norm(Role::kMlpIn, config.mlp_in),
          .mlp_out = norm(Role::kMlpOut, config.mlp_out),
          .query_norm = norm(Role::kQueryNorm, of_heads),
          .key_norm = norm(Role::kKeyNorm, of_heads),
          .qkv = block.linear(weights, Role::kQuery),
          .output = block.linear(weights, Role::kOutput),
          .gate_up = block.linear(weights, config.mlp.activation.gated ? Role::kGate : Role::kUp),
          .down = block.linear(weights, Role::kDown)};
}

Tensor DecoderLayer::attention_input(const Tensor& x) const {
  return normed_or_same(x, weights_.attention_in);
}

Tensor DecoderLayer::with_normed_heads(const Tensor& qkv) const {
  const auto& attention = config_.attention;
  const auto heads = qkv.unflatten(-1, {-1, attention.head_dim});
  const auto part = [&](int64_t first, int64_t count) { return heads.narrow(-2, first, count); };
  const auto over = attention.qk_norm->over;
  return torch::cat(
             {normed_heads(part(0, attention.n_head), *weights_.query_norm, over),
              normed_heads(part(attention.n_head, attention.n_kv_head), *weights_.key_norm, over),
              part(attention.n_head + attention.n_kv_head, attention.n_kv_head)},
             -2)
      .flatten(-2);
}

Tensor DecoderLayer::clipped_and_normed(Tensor qkv) const {
  if (const auto clip = config_.attention.clip_qkv) qkv = qkv.clamp(-*clip, *clip);
  return config_.attention.qk_norm ? with_normed_heads(qkv) : qkv;
}

Tensor DecoderLayer::qkv(const Tensor& x, int64_t batch) const {
  return clipped_and_normed(
      linear_of_normed(x, weights_.attention_in, weights_.qkv).unflatten(0, {batch, -1}));
}

Tensor DecoderLayer::qkv_of_input(const Tensor& input, int64_t batch) const {
  return clipped_and_normed(regroup::linear(input, weights_.qkv).unflatten(0, {batch, -1}));
}

Tensor DecoderLayer::attended(const Tensor& x, int64_t batch, const RopeAngles& angles) const {
  return attention(qkv(x, batch), config_.attention, angles).flatten(0, 1);
}

Tensor DecoderLayer::attended(const Tensor& x, int64_t batch, const RopeAngles& angles,
                              const CachedPositions& cached) const {
  return cached_attention(qkv(x, batch), config_.attention, angles, cached.cache, cached.past)
      .flatten(0, 1);
}

Tensor DecoderLayer::written(const Tensor& attended) const {
  return regroup::linear(attended, weights_.output);
}

Tensor DecoderLayer::joined(const Tensor& written, const Tensor& x) const {
  switch (config_.wiring) {
    case Wiring::kNormedStream:
      return attention_input(x) + written;
    case Wiring::kNormAfter:
      return normed_or_same(x + written, weights_.attention_out);
    case Wiring::kSequential:
    case Wiring::kParallel:
      break;
  }
  return x + normed_or_same(written, weights_.attention_out);
}

Tensor DecoderLayer::after_attention(const Tensor& attended, const Tensor& x) const {
  const bool adds = config_.wiring == Wiring::kSequential || config_.wiring == Wiring::kParallel;
  if (adds && !weights_.attention_out) return regroup::linear(attended, weights_.output, x);
  return joined(written(attended), x);
}

Tensor DecoderLayer::after_attention(const Tensor& x, int64_t batch,
                                     const RopeAngles& angles) const {
  return after_attention(attended(x, batch, angles), x);
}

Tensor DecoderLayer::after_mlp(const Tensor& y, const Tensor& x) const {
  const auto mlp = [&](const Tensor& input, const std::optional<Norm>& norm,
                       const Tensor& residual) {
    const auto hidden = linear_of_normed(input, norm, weights_.gate_up);
    return activation_linear(hidden, config_.mlp.activation, weights_.down, residual);
  };
  switch (config_.wiring) {
    case Wiring::kParallel:
      return mlp(x, weights_.mlp_in ? weights_.mlp_in : weights_.attention_in, y);
    case Wiring::kNormedStream: {
      const auto stream = normed_or_same(y, weights_.mlp_in);
      return mlp(stream, std::nullopt, stream);
    }
    case Wiring::kNormAfter:
      return normed_or_same(mlp(y, std::nullopt, y), weights_.mlp_out);
    case Wiring::kSequential:
      break;
  }
  if (!weights_.mlp_out) return mlp(y, weights_.mlp_in, y);
  return y + normed(mlp(y, weights_.mlp_in, {}), *weights_.mlp_out);
}

DecoderLayer decoder_layer(const DecoderConfig& config, int64_t layer,
                           const FlatParameters& block) {
  return {config.layer(layer), layer_block(config, layer), block.gather()};
}

}  // namespace regroup
