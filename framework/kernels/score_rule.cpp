#include "framework/kernels/score_rule.h"

#include <torch/types.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace regroup {

using torch::Tensor;

Tensor AlibiConfig::slopes(int64_t n_head) const {
  const auto of_power = [](int64_t n, int64_t step, int64_t count) {
    const auto exponents = torch::arange(1, 1 + step * count, step, torch::kFloat64);
    return torch::exp2(exponents * (-8.0 / static_cast<double>(n)));
  };
  const auto below = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n_head)));
  return torch::cat({of_power(below, 1, below), of_power(2 * below, 2, n_head - below)});
}

Tensor AlibiConfig::of_keys(int64_t n_head, int64_t n_keys) const {
  const auto keys = torch::arange(n_keys, torch::kFloat64);
  const auto by_head = slopes(n_head).unsqueeze(1);
  if (!rounds) return scale * by_head * (keys - static_cast<double>(n_keys - 1));
  return scale * (by_head.to(torch::kBFloat16) * keys.to(torch::kBFloat16)).to(torch::kFloat64);
}

ScoreRule ScoreRule::plain(int64_t head_dim) {
  return {1 / std::sqrt(static_cast<double>(head_dim))};
}

int64_t ScoreRule::first_key(int64_t position) const {
  return window ? std::max<int64_t>(0, position - *window + 1) : 0;
}

Tensor ScoreRule::bias(int64_t n_head, int64_t first, int64_t n_queries,
                       torch::TensorOptions options) const {
  const bool is_double = options.dtype() == torch::kFloat64;
  const auto positions = torch::arange(
      first + n_queries, options.dtype(is_double ? torch::kFloat64 : torch::kFloat32));
  const auto ahead = positions - positions.narrow(0, first, n_queries).unsqueeze(1);  // key - query
  auto hidden = ahead.gt(0);
  if (window) hidden = hidden.logical_or(ahead.le(-static_cast<double>(*window)));
  auto bias = torch::zeros({1, 1, 1}, positions.options());
  if (alibi && alibi->rounds) {
    bias = alibi->of_keys(n_head, first + n_queries).to(positions.options()).unsqueeze(1);
  } else if (alibi) {
    const auto slopes = alibi->scale * alibi->slopes(n_head);
    bias = slopes.to(positions.options()).view({n_head, 1, 1}) * ahead;
  }
  return bias.masked_fill(hidden, -std::numeric_limits<double>::infinity()).to(options);
}

Tensor ScoreRule::scores(const Tensor& scaled_products, int64_t first) const {
  const auto capped =
      soft_cap ? torch::tanh(scaled_products / *soft_cap) * *soft_cap : scaled_products;
  return capped + bias(capped.size(-3), first, capped.size(-2), capped.options());
}

}  // namespace regroup
