// framework/parameters/adamw.h: AdamW over flat blocks of parameters, with float32 state for any
// dtype of the model.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "framework/parameters/flat_parameters.h"

namespace regroup {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

/// The optimizer's state for the elements of one block that this process updates, each
/// [own().size()] float32. master is a view of the block's values where these are float32.
struct AdamWState {
  torch::Tensor master, first_moment, second_moment;
};

class AdamW {
 public:
  /// The blocks must have gradients enabled and outlive this.
  AdamW(std::vector<FlatParameters>& blocks, const AdamWOptions& options);

  /// Updates the blocks from their gradients times gradient_scale (Loshchilov and Hutter 2019,
  /// algorithm 2; norm gains do not decay) and publishes the values. Where processes share the
  /// blocks, every process must call it, after the gradients are summed.
  void step(double lr, double gradient_scale);

  /// The number of updates so far, for the bias corrections.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  /// For saving and restoring. The parameters must be restored too: step() writes them from the
  /// masters but never reads them.
  std::vector<AdamWState>& state() { return state_; }

 private:
  std::vector<FlatParameters>& blocks_;
  AdamWOptions options_;
  std::vector<AdamWState> state_;
  int64_t steps_ = 0;
};

/// Sum of the squares of all blocks' gradients, over the elements that this process updates.
double gradient_square(const std::vector<FlatParameters>& blocks);

}  // namespace regroup
