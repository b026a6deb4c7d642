// trainers/training_step.h: from losses to clipped gradients, for training and its benchmark.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>

#include "framework/distributed/world.h"
#include "models/decoder.h"

namespace regroup {

/// A step's sums over all ranks.
struct GradientSums {
  double loss = 0;           // of all passes
  double gradient_norm = 0;  // of their sum
  bool stops = false;        // a rank wants to stop
};

/// Sums the gradients of n_passes losses over all ranks, into the blocks. loss_of: this rank's part
/// of a pass's loss, a scalar with a graph. stops: asked after the passes, whether this rank wants
/// to stop. Every rank must call it, with the same n_passes.
GradientSums sum_gradients(
    Decoder& model, int64_t n_passes, const std::function<torch::Tensor()>& loss_of, World& world,
    const std::function<bool()>& stops = [] { return false; });

/// The factor that makes a gradient of this norm at most `most` long; 0: no clipping.
double clip_factor(double norm, double most);

}  // namespace regroup
