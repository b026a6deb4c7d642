// framework/kernels/score_rule.h: from queries and keys to attention scores. Every path that
// computes scores obeys the one rule: training, prefill, decoding, conversion and its measures.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

namespace regroup {

/// Linear biases of attention (Press et al. 2022), slope_h * (key's position - query's position)
/// times `scale`. Head h of n, a power of 2, has the slope 2^(-8 (h + 1) / n).
struct AlibiConfig {
  double scale = 1;
  bool rounds = false;  // slopes, positions and their products to bfloat16 (Falcon)

  /// The slope of each head: [n_head] float64. A number that is no power of 2 takes the slopes of
  /// the power below, then every other one of the power above.
  torch::Tensor slopes(int64_t n_head) const;
  /// The biases of all keys up to a query's position, up to a constant: [n_head, n_keys] float64.
  torch::Tensor of_keys(int64_t n_head, int64_t n_keys) const;
  bool operator==(const AlibiConfig&) const = default;
};

/// score = cap(scale q·k) + bias, for keys up to the query's position and within the window.
struct ScoreRule {
  double scale = 0;                               // above 0
  std::optional<double> soft_cap = std::nullopt;  // cap * tanh(score / cap) (Gemma 2)
  std::optional<int64_t> window = std::nullopt;   // a position sees itself and window - 1 before
  std::optional<AlibiConfig> alibi = std::nullopt;

  /// The rule of Vaswani et al. 2017: 1 / sqrt(head_dim), causal, and no more.
  static ScoreRule plain(int64_t head_dim);
  bool is_plain(int64_t head_dim) const { return *this == plain(head_dim); }
  /// The first key that the query at a position sees.
  int64_t first_key(int64_t position) const;

  /// The bias to add to capped scores of queries first .. first + n_queries - 1 and the keys before
  /// their end: biases, and -inf where a query must not look. -> [1 or n_head, n_queries,
  /// first + n_queries].
  torch::Tensor bias(int64_t n_head, int64_t first, int64_t n_queries,
                     torch::TensorOptions options) const;
  /// Scores of products q kᵀ that are already scaled: [..., n_head, n_queries, first + n_queries].
  /// With a graph where there is one.
  torch::Tensor scores(const torch::Tensor& scaled_products, int64_t first) const;
  bool operator==(const ScoreRule&) const = default;
};

}  // namespace regroup
