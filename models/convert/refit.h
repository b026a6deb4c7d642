// models/convert/refit.h: corrects a layer's attention after its heads were pooled, on calibration
// text.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "framework/parameters/flat_parameters.h"
#include "framework/settings/settings.h"
#include "models/convert/attention_task.h"

namespace regroup {

enum class RefitKind { kNone, kOutput, kBlock };

/// By their names in configs and options.
const EnumNames<RefitKind>& refit_kinds();

/// Mean over held-out tokens of ||residual stream after attention - target||² / ||target||².
struct RefitOutcome {
  double error_before, error_after;
  double strength = 0;  // of the output projection's regularisation that was chosen
};

/// Corrects the projections in the block. kOutput: the output projection, by refit_output. kBlock:
/// all four by train_projections, undone where that does not lower the held-out error, and then the
/// output projection by refit_output. Every process of the task's world must call it.
RefitOutcome refit_attention(FlatParameters& block, const AttentionTask& task, RefitKind kind);

/// The sums over tokens that a ridge regression needs, in float64. a: the heads' outputs, [N, m];
/// r: the residual that the output projection leaves, [N, d].
class RegressionSums {
 public:
  RegressionSums(int64_t m, int64_t d);
  /// heads: [N, m], residual: [N, d], float32.
  void add(const torch::Tensor& heads, const torch::Tensor& residual);
  /// Replaces the sums by those over all processes.
  void all_reduce(World& world);
  /// Mean of ||r - change a||² over tokens. change: [d, m].
  double mean_error(const torch::Tensor& change) const;

  torch::Tensor heads_moment;  // sum of a aᵀ: [m, m]
  torch::Tensor product;       // sum of a rᵀ: [m, d]
  double residual_square = 0;  // sum of ||r||²
  int64_t n_tokens = 0;
};

struct OutputRefit {
  torch::Tensor change;  // of the output projection, [d, m] float64
  double strength;       // λ as a share of the heads' mean square; 0: no change is best
};

/// The change Δ of the output projection that minimises sum ||r - Δ a||² + λ ||Δ||². The ridge
/// keeps the pooled weights where the text has too little evidence. λ: the strongest of several
/// that lowers the held-out error by at least nine tenths of what the best of them does; Δ = 0
/// where none lowers it. (The best λ fits each layer more closely and the whole model less well.)
OutputRefit refit_output(const RegressionSums& fit, const RegressionSums& held_out);

}  // namespace regroup
