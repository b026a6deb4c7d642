// models/convert/projection_training.h: a layer's attention trained towards what the original's
// did, no step beyond the layer.
#pragma once

#include <cstdint>

#include "framework/parameters/flat_parameters.h"
#include "models/convert/refit.h"

namespace regroup {

constexpr int64_t kTrainingPasses = 2;  // over the windows that are not held out

/// Trains the block's four attention projections on the task's squared error, a share of the
/// target's square as in RefitOutcome: Adam (Kingma and Ba 2015), kTrainingPasses times over the
/// windows that are not held out, a window a step, the learning rate in proportion to the weights.
/// Many small steps get further than the same work in few large ones. Computes in bfloat16 where
/// the CPU multiplies it itself; weights between steps, and their sums, are float32. Several
/// processes divide each window's queries, so that the steps are those of one process.
void train_projections(FlatParameters& block, const AttentionTask& task);

}  // namespace regroup
