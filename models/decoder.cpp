#include "models/decoder.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/functions/checkpoint.h"
#include "models/layers/decoder_layer.h"
#include "models/layers/ends.h"

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
    : config_(config),
      options_(options),
      sharing_(std::move(sharing)),
      block_specs_(decoder_blocks(config)),
      ropes_(config, options) {
  for (const auto& block : block_specs_) blocks_.push_back(block.make(options, sharing_));
}

Predictions Decoder::predictions(const Tensor& tokens, KvCache* cache) {
  if (sharing_ && !torch::GradMode::is_enabled()) sharing_->begin_pass(/*sums_up=*/false);
  const int64_t batch = tokens.size(0), positions = tokens.size(1);
  const int64_t past = cache ? cache->length() : 0;
  const auto angles = ropes_.angles(past, positions);
  auto x = embedded(tokens, past);
  for (int64_t layer = 0; layer < config_.n_layer(); ++layer) {
    const auto block = [=, this, turns = angles[static_cast<size_t>(layer)]](const Tensor& input) {
      return layer_forward(layer, input, batch, turns, cache);
    };
    x = checkpoint_activations_ ? checkpoint(block, x) : block(x);
  }
  if (cache) cache->advance(positions);
  return output_of(config_, block_specs_, x, blocks_.back().gather(),
                   config_.head.tied ? blocks_.front().gather() : std::vector<Tensor>());
}

Tensor Decoder::embedded(const Tensor& tokens, int64_t past) const {
  return embedding_of(config_, block_specs_.front(), blocks_.front().gather(), tokens, past);
}

Tensor Decoder::layer_forward(int64_t index, const Tensor& x, int64_t batch,
                              const RopeAngles& angles, KvCache* cache) const {
  const auto block = static_cast<size_t>(index) + 1;
  const DecoderLayer layer(config_.layer(index), block_specs_[block], blocks_[block].gather());
  const auto attended =
      cache ? layer.attended(x, batch, angles, {cache->layer(index), cache->length()})
            : layer.attended(x, batch, angles);
  return layer.after_mlp(layer.after_attention(attended, x), x);
}

Tensor Decoder::logits(const Tensor& tokens) {
  const auto all = predictions(tokens);
  return all.logits(0, all.hidden.size(0)).unflatten(0, {tokens.size(0), tokens.size(1)});
}

std::optional<int64_t> Decoder::first_nonfinite_layer(const Tensor& tokens) {
  const torch::NoGradGuard no_grad;
  const auto angles = ropes_.angles(0, tokens.size(1));
  auto x = embedded(tokens, 0);
  for (int64_t layer = 0; layer < config_.n_layer(); ++layer) {
    x = layer_forward(layer, x, tokens.size(0), angles[static_cast<size_t>(layer)], nullptr);
    if (!x.isfinite().all().item<bool>()) return layer;
  }
  return std::nullopt;
}

Tensor Decoder::loss(const Tensor& tokens, double scale) {
  const auto [inputs, targets] = inputs_and_targets(tokens);
  return linear_cross_entropy(predictions(inputs), targets, scale);
}

Tensor Decoder::distillation_loss(const Tensor& tokens, Decoder& teacher,
                                  const kernels::Distillation& distillation, double scale) {
  const auto [inputs, targets] = inputs_and_targets(tokens);
  const auto taught = [&, inputs = inputs] {
    const torch::NoGradGuard no_grad;
    return teacher.predictions(inputs);
  }();
  return linear_distillation(predictions(inputs), targets, taught, distillation, scale);
}

Tensor Decoder::parameter(const ParameterId& id) const {
  for (size_t block = 0; block < blocks_.size(); ++block) {
    const auto& parameters = block_specs_[block].parameters;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].id == id) return blocks_[block].parameter(i);
    }
  }
  TORCH_CHECK(false, "the model has no parameter ", id.name());
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
