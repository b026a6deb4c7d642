#include "models/layers/rope.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "framework/kernels/kernels.h"
#include "framework/kernels/operands.h"

namespace regroup {
namespace {

using torch::Tensor;

/// Long waves are stretched by the factor, short ones stay, and those between are blended.
Tensor llama3_scaled(const Tensor& frequencies, const RopeScaling& scaling) {
  const auto original = static_cast<double>(scaling.original_max_seq_len);
  const auto wavelength = 2 * std::numbers::pi / frequencies;
  const auto blend = ((original / wavelength - scaling.low_freq_factor) /
                      (scaling.high_freq_factor - scaling.low_freq_factor))
                         .clamp(0, 1);
  return (1 - blend) * frequencies / scaling.factor + blend * frequencies;
}

/// Peng et al. 2023, eqs. 17, 18 and 23: a ramp over dims between the bounds.
Tensor yarn_scaled(const Tensor& frequencies, const RotaryConfig& config) {
  const auto& scaling = config.scaling;
  const auto dims = static_cast<double>(config.dims);
  const auto original = static_cast<double>(scaling.original_max_seq_len);
  const auto dim_of_turns = [&](double turns) {
    return dims * std::log(original / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  double low = dim_of_turns(scaling.beta_fast), high = dim_of_turns(scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1);
  if (low == high) high += 0.001;  // as transformers does
  const auto ramp =
      ((torch::arange(config.dims / 2, frequencies.options()) - low) / (high - low)).clamp(0, 1);
  return frequencies / scaling.factor * ramp + frequencies * (1 - ramp);
}

Tensor long_scaled(const Tensor& frequencies, const RopeScaling& scaling, int64_t seq_len) {
  const bool is_long = seq_len > scaling.original_max_seq_len;
  const auto& factors = is_long ? scaling.long_factor : scaling.short_factor;
  return frequencies / torch::tensor(factors, torch::kFloat64).to(frequencies.options());
}

}  // namespace

Tensor rope_frequencies(const RotaryConfig& config, int64_t seq_len, torch::TensorOptions options) {
  const auto exponents =
      torch::arange(0, config.dims, 2, options) / static_cast<double>(config.dims);
  const auto frequencies = 1.0 / torch::pow(config.theta, exponents);
  switch (config.scaling.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kDynamic:
      return frequencies;
    case RopeScaling::Kind::kLinear:
      return frequencies / config.scaling.factor;
    case RopeScaling::Kind::kLlama3:
      return llama3_scaled(frequencies, config.scaling);
    case RopeScaling::Kind::kYarn:
      return yarn_scaled(frequencies, config);
    case RopeScaling::Kind::kLongRope:
      return long_scaled(frequencies, config.scaling, seq_len);
  }
  TORCH_CHECK(false, "not a kind of scaling");
}

Rope::Rope(const RotaryConfig& config, torch::TensorOptions options)
    : config_(config),
      options_(options.dtype(kernels::sum_type(c10::typeMetaToScalarType(options.dtype())))
                   .requires_grad(false)) {}

bool Rope::changes_between(int64_t past, int64_t total) const {
  const int64_t original = config_.scaling.original_max_seq_len;
  return config_.scaling.kind == RopeScaling::Kind::kLongRope &&
         (past > original) != (total > original);
}

RopeAngles Rope::angles(int64_t first, int64_t count) {
  const int64_t seq_len = first + count;
  if (changes_between(table_seq_len_, seq_len)) table_ = {};
  const int64_t known = table_.cos.defined() ? table_.cos.size(0) : 0;
  if (seq_len > known) {
    const torch::NoGradGuard no_grad;
    const int64_t length = std::max(seq_len, 2 * known);
    const auto frequencies = rope_frequencies(config_, seq_len, options_);
    const auto angle = torch::outer(torch::arange(length, options_), frequencies);
    table_ = {angle.cos(), angle.sin()};
    if (config_.scaling.attention_factor != 1) {
      table_.cos *= config_.scaling.attention_factor;
      table_.sin *= config_.scaling.attention_factor;
    }
  }
  table_seq_len_ = seq_len;
  return {table_.cos.narrow(0, first, count), table_.sin.narrow(0, first, count)};
}

LayerRopes::LayerRopes(const DecoderConfig& config, torch::TensorOptions options) {
  std::vector<RotaryConfig> known;
  for (const auto& layer : config.layers) {
    const auto& rotary = layer.attention.rotary;
    if (!rotary) {
      rope_of_layer_.push_back(std::nullopt);
      continue;
    }
    const auto same = std::find(known.begin(), known.end(), *rotary);
    rope_of_layer_.push_back(static_cast<size_t>(same - known.begin()));
    if (same != known.end()) continue;
    known.push_back(*rotary);
    ropes_.emplace_back(*rotary, options);
  }
}

bool LayerRopes::change_between(int64_t past, int64_t total) const {
  return std::any_of(ropes_.begin(), ropes_.end(),
                     [&](const Rope& rope) { return rope.changes_between(past, total); });
}

std::vector<RopeAngles> LayerRopes::angles(int64_t first, int64_t count) {
  std::vector<RopeAngles> by_rope, by_layer;
  for (auto& rope : ropes_) by_rope.push_back(rope.angles(first, count));
  for (const auto rope : rope_of_layer_) by_layer.push_back(rope ? by_rope[*rope] : RopeAngles());
  return by_layer;
}

void rotate_(const torch::Tensor& heads, const RopeAngles& angles, int direction) {
  kernels::rotate_(heads, angles.cos, angles.sin, direction);
}

}  // namespace regroup
