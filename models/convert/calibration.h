// models/convert/calibration.h: runs a model over text layer by layer, together with the model that
// it is converted to. Holds the weights of one layer and the residual streams of all tokens (on
// disk when they are large), so the model does not need to fit in memory. Several processes divide
// the text.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

#include "framework/distributed/world.h"
#include "framework/functions/likeness.h"
#include "models/convert/calibration_text.h"
#include "models/convert/pool_layer.h"
#include "models/convert/refit.h"
#include "models/layers/decoder_layer.h"
#include "models/model_folder.h"

namespace regroup {

/// The error of a layer with fewer heads on the inputs of the original's layer, over held-out text.
struct LayerError {
  double scores;   // of all attention scores, ||S' - S|| / ||S||
  double outputs;  // of what attention writes, ||y' - y|| / ||y||
  double stream;   // mean over tokens of ||y' - y||² / ||residual stream after attention||²
};

/// Computes in float32 without gradients, with sums over tokens in float64. Every process of the
/// world must make the same calls, each with its share of the text, and gets the same results.
class CalibrationPass {
 public:
  /// text: of this process. scratch: a folder for streams that are too large for memory. source,
  /// text and world must outlive this.
  CalibrationPass(const ModelFolder& source, const CalibrationText& text,
                  const std::filesystem::path& scratch, World& world);

  /// Moments of the normed inputs of the next layer, over the text that is not held out. Each
  /// position's attended mean is weighted by 1 / ||residual stream||², as errors are.
  InputMoments input_moments() const;
  /// Error of the next layer. partition[g]: the original K/V heads that were merged into head g.
  LayerError layer_error(const LayerProjections& pooled, const Partition& partition) const;

  /// Runs the next layer of the original only. Throws Error where an activation is not finite.
  void advance();
  /// Refits `pooled`, the converted form of the next layer, and runs both models' next layer. The
  /// converted model's inputs come from its earlier layers, so every layer must be advanced this
  /// way. Changes only pooled's projections.
  RefitOutcome advance_beside(LayerProjections& pooled, RefitKind refit);

  /// After the last layer: compares the two models' predictions on held-out text.
  Likeness likeness() const;

 private:
  FlatParameters block_of(const DecoderBlock& spec) const;
  FlatParameters block_with(const LayerProjections* pooled, const DecoderConfig& config) const;
  DecoderConfig config_with(const LayerProjections& pooled) const;
  DecoderLayer original_layer() const;
  const RopeAngles& angles() const { return angles_[static_cast<size_t>(layer_)]; }
  void begin_layer(int64_t layer);
  void require_finite(const torch::Tensor& stream, const char* whose, int64_t layer) const;
  torch::Tensor new_stream() const;
  torch::Tensor embedded() const;

  const ModelFolder& source_;
  const CalibrationText& text_;
  std::filesystem::path scratch_;
  World& world_;
  DecoderConfig config_;
  std::vector<RopeAngles> angles_;  // of each layer
  int64_t layer_ = 0;
  std::optional<FlatParameters> block_;                   // of the original's layer
  torch::Tensor stream_, converted_, targets_, written_;  // [windows * T, d_model]
};

}  // namespace regroup
