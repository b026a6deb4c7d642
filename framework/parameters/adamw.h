// framework/parameters/adamw.h: AdamW over flat blocks of parameters, with float32 state whatever
// the model computes in.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "framework/parameters/flat_parameters.h"

namespace regroup {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

/// The optimizer's state of what this process updates of one block, all [own().size()] float32.
/// master is the block's own values where they are float32 already.
struct AdamWState {
  torch::Tensor master, first_moment, second_moment;
};

class AdamW {
 public:
  /// The blocks have gradient buffers, and outlive this.
  AdamW(std::vector<FlatParameters>& blocks, const AdamWOptions& options);

  /// One update from the blocks' gradients times gradient_scale. Loshchilov and Hutter 2019,
  /// algorithm 2; norm gains do not decay. The updated values are published: where processes share
  /// the blocks all call it alike, when their gradients are summed.
  void step(double lr, double gradient_scale);

  /// Updates so far, for the bias corrections.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  /// For saving and restoring, which the parameters must be with it: step() writes them from the
  /// masters but never reads them.
  std::vector<AdamWState>& state() { return state_; }

 private:
  std::vector<FlatParameters>& blocks_;
  AdamWOptions options_;
  std::vector<AdamWState> state_;
  int64_t steps_ = 0;
};

/// Sum of the squares of all blocks' gradients, as far as this process updates their values.
double gradient_square(const std::vector<FlatParameters>& blocks);

}  // namespace regroup
