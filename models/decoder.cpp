#include "models/decoder.h"

#include <torch/types.h>

#include "framework/functions/checkpoint.h"
#include "framework/functions/cross_entropy.h"
#include "framework/functions/embedding.h"
#include "framework/functions/linear.h"

namespace regroup {

using torch::Tensor;

Decoder::Decoder(const DecoderConfig& config, torch::TensorOptions options)
    : config_(config), options_(options), rope_(config, options) {
  for (const auto& block : decoder_blocks(config))
    blocks_.emplace_back(block.parameters, block.operands, options);
}

Tensor Decoder::hidden(const Tensor& tokens, KvCache* cache) {
  const int64_t batch = tokens.size(0), positions = tokens.size(1);
  const int64_t past = cache ? cache->length() : 0;
  const auto angles = rope_.angles(past, positions);
  auto x =
      regroup::embedding(blocks_.front().gather()[0], tokens).flatten(0, 1);  // [B * T, d_model]
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const auto block = [=, this](const Tensor& input) {
      return layer_forward(layer, input, batch, angles, cache);
    };
    x = checkpoint_activations_ ? checkpoint(block, x) : block(x);
  }
  if (cache) cache->advance(positions);
  return regroup::rms_norm(x, blocks_.back().gather()[0], config_.norm_eps);
}

Tensor Decoder::layer_forward(int64_t layer, const Tensor& x, int64_t batch,
                              const RopeAngles& angles, KvCache* cache) const {
  const auto weights = blocks_[static_cast<size_t>(layer) + 1].gather();
  const Tensor &attention_norm = weights[0], &qkv_proj = weights[1], &o_proj = weights[2];
  const Tensor &mlp_norm = weights[3], &gate_up_proj = weights[4], &down_proj = weights[5];
  const AttentionShape shape{config_.n_head, config_.n_kv_head[static_cast<size_t>(layer)],
                             config_.head_dim};

  const auto qkv =
      rms_norm_linear(x, attention_norm, config_.norm_eps, qkv_proj).unflatten(0, {batch, -1});
  const auto attended =
      cache ? cached_attention(qkv, shape, angles, cache->layer(layer), cache->length())
            : attention(qkv, shape, angles);
  const auto h = regroup::linear(attended.flatten(0, 1), o_proj, x);
  return swiglu_linear(rms_norm_linear(h, mlp_norm, config_.norm_eps, gate_up_proj), down_proj, h);
}

Tensor Decoder::head() const {
  return config_.tie_embeddings ? blocks_.front().gather()[0] : blocks_.back().gather()[1];
}

Tensor Decoder::logits(const Tensor& tokens) {
  return regroup::linear(hidden(tokens), head()).unflatten(0, {tokens.size(0), tokens.size(1)});
}

Tensor Decoder::loss(const Tensor& tokens, double scale) {
  const int64_t positions = tokens.size(1) - 1;
  const auto inputs = tokens.narrow(1, 0, positions);
  const auto targets = tokens.narrow(1, 1, positions).flatten();
  return linear_cross_entropy(hidden(inputs), head(), targets, scale);
}

Tensor Decoder::parameter(const std::string& name) const {
  for (const auto& block : blocks_) {
    for (size_t i = 0; i < block.parameters().size(); ++i) {
      if (block.parameters()[i].name == name) return block.parameter(i);
    }
  }
  TORCH_CHECK(false, "no parameter is named ", name);
}

void Decoder::enable_training(bool checkpoint_activations) {
  checkpoint_activations_ = checkpoint_activations;
  for (auto& block : blocks_) block.enable_gradient();
}

void initialize(Decoder& decoder, uint64_t seed) {
  for (auto& block : decoder.blocks()) initialize(block, seed);
}

}  // namespace regroup
