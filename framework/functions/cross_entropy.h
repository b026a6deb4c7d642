// framework/functions/cross_entropy.h: output projection and loss in one function, a chunk of rows
// at a time, so that the logits of a whole batch ([N, vocab_size], the largest tensor of a small
// model's step) never exist. hidden and weight must have the same dtype (float32, bfloat16 or
// float64) and device. Shapes or dtypes that do not match, and targets of vocab_size or more, throw
// c10::Error.
#pragma once

#include <torch/types.h>

#include <functional>

#include "framework/kernels/kernels.h"

namespace regroup {

/// scale * sum over rows of the cross-entropy of softmax(hidden weightᵀ) against targets.
/// hidden: [N, d], weight: [vocab_size, d], targets: [N] int64, negative ones ignored
/// -> scalar, float32 (float64 for float64). The forward pass computes the gradients
/// too, while it holds a chunk's logits.
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, double scale);

/// The factors of a model's logits: hidden [N, d], head [vocab_size, d].
struct Predictions {
  torch::Tensor hidden, head;
};

/// scale * sum over rows of kernels::distillation_, with the logits of the teacher computed chunk
/// by chunk as well, without a graph. The teacher may differ in d and dtype, but not in N and
/// vocabulary.
torch::Tensor linear_distillation(const torch::Tensor& hidden, const torch::Tensor& weight,
                                  const torch::Tensor& targets, const Predictions& teacher,
                                  const kernels::Distillation& distillation, double scale);

/// -log softmax(hidden weightᵀ)[target] of each row, without a graph -> [N] float32 (float64 for
/// float64), 0 where the target is negative. N is at least 1.
torch::Tensor linear_token_losses(const torch::Tensor& hidden, const torch::Tensor& weight,
                                  const torch::Tensor& targets);

/// Calls visit(first_row, n_rows) for chunks of rows whose logits take about 32 MiB.
void for_each_logit_chunk(int64_t n_rows, int64_t vocab_size,
                          const std::function<void(int64_t first_row, int64_t n_rows)>& visit);

}  // namespace regroup
