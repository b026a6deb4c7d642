// models/convert/refit.h: mending a layer's attention after its heads were pooled, from text, a
// layer at a time.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "framework/distributed/world.h"
#include "framework/parameters/flat_parameters.h"
#include "framework/settings/settings.h"
#include "models/convert/calibration_text.h"
#include "models/decoder_layer.h"

namespace regroup {

enum class RefitKind { kNone, kOutput, kBlock };

/// By the names of configs and options.
const EnumNames<RefitKind>& refit_kinds();

/// 1 / ||stream|| of each token, [rows, 1]: what its error counts. Norms divide by the size of the
/// stream, so that is what an error is to be seen against; and a few tokens' streams are a thousand
/// times larger than all others (Sun et al. 2024, "Massive activations"), which would decide
/// everything. stream: [rows, d].
torch::Tensor token_scale(const torch::Tensor& stream);

/// What the attention of one layer with fewer heads is to do: from the residual stream that it
/// sees to the one that the original's had after attention. So it also makes up for what earlier
/// layers got wrong.
struct AttentionTask {
  const DecoderConfig& config;  // of the model with fewer heads
  int64_t layer;
  const CalibrationText& text;
  torch::Tensor stream;   // before the layer, converted model: [windows * T, d_model]
  torch::Tensor targets;  // after attention, original model: the same
  RopeAngles angles;
  World& world;  // each process has its share of the text
};

/// Mean over held-out tokens of ||residual stream after attention - target||² / ||target||²: norms
/// divide by the size of the stream, so an error is seen against that.
struct RefitOutcome {
  double error_before, error_after;
  double strength = 0;  // of the output projection's regularisation that was chosen
};

/// Mends the projections in the block. kOutput: the output projection, by refit_output. kBlock: all
/// four by train_projections first, then the output projection as before; what does not better the
/// held-out error is undone. All processes of the task's world call it alike.
RefitOutcome refit_attention(FlatParameters& block, const AttentionTask& task, RefitKind kind);

/// Sums over tokens that a ridge regression needs, float64: of the heads' outputs a, [N, m], and
/// the residual r that the output projection leaves, [N, d].
class RegressionSums {
 public:
  RegressionSums(int64_t m, int64_t d);
  /// heads: [N, m], residual: [N, d], float32.
  void add(const torch::Tensor& heads, const torch::Tensor& residual);
  /// The sums of all processes.
  void all_reduce(World& world);
  /// Mean ||r - change a||² of a token. change: [d, m].
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

/// The change Δ of the output projection that minimises sum ||r - Δ a||² + λ ||Δ||², so that what
/// the text says too little about stays at the pooled weights. λ: the strongest of several that
/// wins nine tenths of the error, on held-out tokens, that the best of them wins; Δ = 0 where none
/// wins any. (The best itself fits each layer closer and the whole model worse.)
OutputRefit refit_output(const RegressionSums& fit, const RegressionSums& held_out);

}  // namespace regroup
