// models/convert/projection_training.h: trains a layer's attention towards the original's output,
// without the layers after it.
#pragma once

#include <cstdint>

#include "framework/parameters/flat_parameters.h"
#include "models/convert/attention_task.h"

namespace regroup {

constexpr int64_t kTrainingPasses = 2;  // over the windows that are not held out

/// Trains the block's four attention projections on the task's squared error relative to the
/// target's square, as in RefitOutcome: Adam (Kingma and Ba 2015), kTrainingPasses times over the
/// windows that are not held out, one window per step, with a learning rate in proportion to the
/// weights. Many small steps get further than the same work in few large ones. Computes in bfloat16
/// where the CPU multiplies it in hardware; master weights and gradient sums are float32. Several
/// processes divide each window's queries, so they make the same steps as one process.
void train_projections(FlatParameters& block, const AttentionTask& task);

}  // namespace regroup
