// framework/functions/cross_entropy.h: the output projection and the loss in one, a chunk of rows at a time, so that
// the logits of a batch ([N, vocab], the largest tensor of a small model's step) are never held.
#pragma once

#include <torch/types.h>

#include <functional>

namespace regroup {

/// scale * sum over rows of the cross-entropy of softmax(hidden weightᵀ) against targets.
/// hidden: [N, d], weight: [vocab, d], targets: [N] int64, negative ones ignored -> scalar, float32 (float64 for
/// float64). The gradients are made in the forward pass, while a chunk's logits are at hand.
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, double scale);

/// -log softmax(hidden weightᵀ)[target] of each row, without a graph -> [N] float32, 0 where the target is negative.
torch::Tensor linear_token_losses(const torch::Tensor& hidden, const torch::Tensor& weight,
                                  const torch::Tensor& targets);

/// Calls visit(first_row, n_rows) for chunks of rows whose logits take about 32 MiB.
void for_each_logit_chunk(int64_t n_rows, int64_t n_vocab,
                          const std::function<void(int64_t first_row, int64_t n_rows)>& visit);

}  // namespace regroup
