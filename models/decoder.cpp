#include "models/decoder.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/functions/checkpoint.h"
#include "framework/functions/embedding.h"
#include "framework/functions/linear.h"
#include "models/decoder_layer.h"

namespace regroup {

namespace {

using torch::Tensor;

struct InputsAndTargets {
  Tensor inputs, targets;  // [B, T], [B * T]
};
/// tokens: [B, T + 1].
InputsAndTargets inputs_and_targets(const Tensor& tokens) {
  const int64_t positions = tokens.size(1) - 1;
  return {tokens.narrow(1, 0, positions), tokens.narrow(1, 1, positions).flatten()};
}

}  // namespace

Decoder::Decoder(const DecoderConfig& config, torch::TensorOptions options,
                 std::shared_ptr<Sharing> sharing)
    : config_(config), options_(options), sharing_(std::move(sharing)), rope_(config, options) {
  for (const auto& block : decoder_blocks(config))
    blocks_.emplace_back(block.parameters, block.operands, options, sharing_);
}

Predictions Decoder::predictions(const Tensor& tokens, KvCache* cache) {
  if (sharing_ && !torch::GradMode::is_enabled()) sharing_->begin_pass(/*sums_up=*/false);
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
  const auto last = blocks_.back().gather();  // final norm (and head)
  const auto head = config_.tie_embeddings ? blocks_.front().gather()[0] : last[1];
  return {regroup::rms_norm(x, last[0], config_.norm_eps), head};
}

Tensor Decoder::layer_forward(int64_t index, const Tensor& x, int64_t batch,
                              const RopeAngles& angles, KvCache* cache) const {
  const DecoderLayer layer(config_, index, blocks_[static_cast<size_t>(index) + 1].gather());
  const auto attended =
      cache ? layer.attended(x, batch, angles, {cache->layer(index), cache->length()})
            : layer.attended(x, batch, angles);
  return layer.after_mlp(layer.after_attention(attended, x));
}

Tensor Decoder::logits(const Tensor& tokens) {
  const auto [hidden, head] = predictions(tokens);
  return regroup::linear(hidden, head).unflatten(0, {tokens.size(0), tokens.size(1)});
}

std::optional<int64_t> Decoder::first_nonfinite_layer(const Tensor& tokens) {
  const torch::NoGradGuard no_grad;
  const auto angles = rope_.angles(0, tokens.size(1));
  auto x = regroup::embedding(blocks_.front().gather()[0], tokens).flatten(0, 1);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    x = layer_forward(layer, x, tokens.size(0), angles, nullptr);
    if (!x.isfinite().all().item<bool>()) return layer;
  }
  return std::nullopt;
}

Tensor Decoder::loss(const Tensor& tokens, double scale) {
  const auto [inputs, targets] = inputs_and_targets(tokens);
  const auto [hidden, head] = predictions(inputs);
  return linear_cross_entropy(hidden, head, targets, scale);
}

Tensor Decoder::distillation_loss(const Tensor& tokens, Decoder& teacher,
                                  const kernels::Distillation& distillation, double scale) {
  const auto [inputs, targets] = inputs_and_targets(tokens);
  const auto taught = [&, inputs = inputs] {
    const torch::NoGradGuard no_grad;
    return teacher.predictions(inputs);
  }();
  const auto [hidden, head] = predictions(inputs);
  return linear_distillation(hidden, head, targets, taught, distillation, scale);
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

void Decoder::zero_gradients() {
  for (auto& block : blocks_) block.zero_gradient();
}

void Decoder::begin_pass(bool is_last) {
  if (sharing_) sharing_->begin_pass(is_last);
}

void Decoder::finish_exchanges() {
  if (sharing_) sharing_->finish();
}

void initialize(Decoder& decoder, uint64_t seed) {
  for (auto& block : decoder.blocks()) initialize(block, seed);
}

}  // namespace regroup
