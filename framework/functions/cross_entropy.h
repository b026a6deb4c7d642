// framework/functions/cross_entropy.h: output projection and loss in one function, a chunk of rows
// at a time, so that the logits of a whole batch ([N, vocab_size], the largest tensor of a small
// model's step) never exist. hidden and head must have the same dtype (float32, bfloat16 or
// float64) and device. Shapes or dtypes that do not match, and targets of vocab_size or more, throw
// c10::Error.
#pragma once

#include <torch/types.h>

#include <functional>
#include <optional>

#include "framework/kernels/kernels.h"

namespace regroup {

/// From hidden rows to logits: cap * tanh(y / cap) of y = hidden weightᵀ + bias, or y without a
/// cap.
struct OutputHead {
  torch::Tensor weight;     // [vocab_size, d]
  torch::Tensor bias = {};  // [vocab_size] or undefined
  std::optional<double> soft_cap = std::nullopt;
};

/// A model's predictions of N tokens, of which the logits are computed in chunks.
struct Predictions {
  torch::Tensor hidden;  // [N, d]
  OutputHead head;

  int64_t vocab_size() const { return head.weight.size(0); }
  /// The logits of rows first .. first + n_rows - 1, without a graph: [n_rows, vocab_size].
  torch::Tensor logits(int64_t first, int64_t n_rows) const;
};

/// scale * sum over rows of the cross-entropy of softmax(logits) against targets: [N] int64,
/// negative ones ignored -> scalar, float32 (float64 for float64). The forward pass
/// computes the gradients too, while it holds a chunk's logits.
torch::Tensor linear_cross_entropy(const Predictions& predictions, const torch::Tensor& targets,
                                   double scale);

/// scale * sum over rows of kernels::distillation_, with the logits of the teacher computed chunk
/// by chunk as well, without a graph. The teacher may differ in d and dtype, but not in N and
/// vocabulary.
torch::Tensor linear_distillation(const Predictions& predictions, const torch::Tensor& targets,
                                  const Predictions& teacher,
                                  const kernels::Distillation& distillation, double scale);

/// -log softmax(logits)[target] of each row, without a graph -> [N] float32 (float64 for float64),
/// 0 where the target is negative. N is at least 1.
torch::Tensor linear_token_losses(const Predictions& predictions, const torch::Tensor& targets);

/// Calls visit(first_row, n_rows) for chunks of rows: as many as have 8 Mi logits, at least 512 but
/// for 32 Mi logits.
void for_each_logit_chunk(int64_t n_rows, int64_t vocab_size,
                          const std::function<void(int64_t first_row, int64_t n_rows)>& visit);

}  // namespace regroup
