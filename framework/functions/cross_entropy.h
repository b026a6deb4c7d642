// framework/functions/cross_entropy.h: the output projection and the loss in one, a chunk of rows
// at a time, so that the logits of a batch ([N, vocab_size], the largest tensor of a small model's
// step) are never held. hidden and weight share dtype (float32, bfloat16 or float64) and device;
// what does not fit together, and a target of vocab_size or above, is refused with c10::Error.
#pragma once

#include <torch/types.h>

#include <functional>

#include "framework/kernels/kernels.h"

namespace regroup {

/// scale * sum over rows of the cross-entropy of softmax(hidden weightᵀ) against targets.
/// hidden: [N, d], weight: [vocab_size, d], targets: [N] int64, contiguous, negative ones ignored
/// -> scalar, float32 (float64 for float64). The gradients are made in the forward pass, while a
/// chunk's logits are at hand.
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, double scale);

/// What a model's predictions are made of: hidden [N, d], head [vocab_size, d].
struct Predictions {
  torch::Tensor hidden, head;
};

/// The same with a teacher, whose logits are made chunk by chunk too, without a graph: scale * sum
/// over rows of kernels::distillation_. The teacher may differ in d and dtype, not in N and
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
