// framework/functions/likeness.h: how alike the next-token distributions of a model and a reference
// are, a chunk of rows at a time, so that the logits of a whole batch never exist.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "framework/functions/cross_entropy.h"

namespace regroup {

/// Means over predicted tokens.
struct Likeness {
  double loss = 0;            // cross-entropy of the model in nats
  double reference_loss = 0;  // of the reference
  double agreement = 0;       // share of tokens whose most likely next token is the same
  double kl = 0;              // KL(reference || model) in nats
};

class LikenessMeter {
 public:
  /// targets: [N] int64, each below vocab_size. The two models may differ in d and dtype, but not
  /// in N and vocabulary.
  void add(const Predictions& model, const Predictions& reference, const torch::Tensor& targets);
  int64_t n_tokens() const { return n_tokens_; }
  /// Sums of losses, reference losses, agreements and KL, and the number of tokens, for adding over
  /// processes.
  std::vector<double> sums() const;
  void set_sums(const std::vector<double>& sums);
  /// Means over all tokens so far; zeros where there were none.
  Likeness mean() const;

 private:
  Likeness sums_{};
  int64_t n_tokens_ = 0;
};

}  // namespace regroup
