// tests/support/numerical_gradient.h: gradients by central differences in float64, for comparison
// with autograd functions.
#pragma once

#include <torch/types.h>
#include <torch/utils.h>

#include <functional>
#include <vector>

#include "framework/tensors/random.h"
#include "tests/support/catch_torch.h"

namespace regroup::testing {

/// Seeded normal numbers, float64.
inline torch::Tensor seeded_randn(const std::vector<int64_t>& shape, uint64_t seed = 1) {
  return torch::randn(shape, seeded_generator(seed, "seeded_randn"), torch::kFloat64);
}

/// d f / d x by central differences, for every element of x, which f reads in place. x: contiguous
/// float64.
inline torch::Tensor numerical_gradient(const std::function<double()>& f, const torch::Tensor& x) {
  constexpr double kStep = 1e-5;
  const torch::NoGradGuard no_grad;
  auto gradient = torch::empty_like(x);
  auto* value = x.mutable_data_ptr<double>();
  auto* slope = gradient.mutable_data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double before = value[i];
    value[i] = before + kStep;
    const double above = f();
    value[i] = before - kStep;
    const double below = f();
    value[i] = before;
    slope[i] = (above - below) / (2 * kStep);
  }
  return gradient;
}

/// Checks the gradients of sum(f(inputs) * weights), with fixed random weights, for every input.
inline void check_gradients(
    const std::function<torch::Tensor(const std::vector<torch::Tensor>&)>& f,
    std::vector<torch::Tensor> inputs) {
  for (auto& input : inputs) input = input.clone().requires_grad_();
  const auto y = f(inputs);
  const auto weights = seeded_randn(y.sizes().vec(), 99);
  (y * weights).sum().backward();
  const auto value = [&] { return (f(inputs) * weights).sum().item<double>(); };
  for (size_t i = 0; i < inputs.size(); ++i) {
    INFO("input " << i);
    const auto expected = numerical_gradient(value, inputs[i].detach());
    REQUIRE(expected.abs().max().item<double>() >
            1e-3);  // otherwise a backward that returns zeros could pass
    CHECK_THAT(inputs[i].grad(), AllClose(expected, /*atol=*/1e-7, /*rtol=*/1e-6));
  }
}

}  // namespace regroup::testing
