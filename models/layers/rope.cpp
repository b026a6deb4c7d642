#include "models/layers/rope.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <numbers>

#include "framework/kernels/kernels.h"
#include "framework/kernels/operands.h"

namespace regroup {
namespace {

torch::Tensor scaled(const torch::Tensor& frequencies, const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      return frequencies;
    case RopeScaling::Kind::kLinear:
      return frequencies / scaling.factor;
    case RopeScaling::Kind::kLlama3:
      break;
  }
  // Long waves are stretched by the factor, short ones stay, and those between are blended.
  const auto original = static_cast<double>(scaling.original_max_seq_len);
  const auto wavelength = 2 * std::numbers::pi / frequencies;
  const auto blend = ((original / wavelength - scaling.low_freq_factor) /
                      (scaling.high_freq_factor - scaling.low_freq_factor))
                         .clamp(0, 1);
  return (1 - blend) * frequencies / scaling.factor + blend * frequencies;
}

}  // namespace

torch::Tensor rope_frequencies(const DecoderConfig& config, torch::TensorOptions options) {
  const auto exponents =
      torch::arange(0, config.head_dim, 2, options) / static_cast<double>(config.head_dim);
  return scaled(1.0 / torch::pow(config.rope_theta, exponents), config.rope_scaling);
}

Rope::Rope(const DecoderConfig& config, torch::TensorOptions options) {
  const auto type = kernels::sum_type(c10::typeMetaToScalarType(options.dtype()));
  frequencies_ = rope_frequencies(config, options.dtype(type).requires_grad(false));
}

RopeAngles Rope::angles(int64_t first, int64_t count) {
  const int64_t known = table_.cos.defined() ? table_.cos.size(0) : 0;
  if (first + count > known) {
    const torch::NoGradGuard no_grad;
    const int64_t length = std::max(first + count, 2 * known);
    const auto angle = torch::outer(torch::arange(length, frequencies_.options()), frequencies_);
    table_ = {angle.cos(), angle.sin()};
  }
  return {table_.cos.narrow(0, first, count), table_.sin.narrow(0, first, count)};
}

void rotate_(const torch::Tensor& heads, const RopeAngles& angles, int direction) {
  kernels::rotate_(heads, angles.cos, angles.sin, direction);
}

}  // namespace regroup
