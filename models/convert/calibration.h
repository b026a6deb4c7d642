// models/convert/calibration.h: a model run over text block by block, beside what it is converted
// to. One block's weights are held at a time, and the residual streams of all tokens (on disk when
// large), so that a model needs not fit into memory. Several processes divide the text.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

#include "framework/distributed/world.h"
#include "framework/functions/likeness.h"
#include "models/convert/calibration_text.h"
#include "models/convert/pool_layer.h"
#include "models/convert/refit.h"
#include "models/hf_checkpoint.h"

namespace regroup {

/// How far a layer with fewer heads is from the original's on the same inputs, over held-out text.
struct LayerError {
  double scores;   // of all attention scores, ||S' - S|| / ||S||
  double outputs;  // of what attention writes, ||y' - y|| / ||y||
  double stream;   // mean over tokens of ||y' - y||² / ||residual stream after attention||²
};

/// Without gradients; everything in float32, sums over tokens in float64. All processes of the
/// world call it alike, each with its share of the text, and get the same.
class CalibrationPass {
 public:
  /// text: this process's. scratch: a folder for streams too large for memory. source, text and
  /// world must outlive this.
  CalibrationPass(const ModelFolder& source, const CalibrationText& text,
                  const std::filesystem::path& scratch, World& world);

  /// Of the normed inputs of the layer that comes next, over the text that is not held out; each
  /// position's attended mean counts in inverse proportion to the square of its residual stream,
  /// as errors do.
  InputMoments input_moments() const;
  /// Of that layer. partition: which of the original's heads became which of pooled's.
  LayerError layer_error(const LayerProjections& pooled, const Partition& partition) const;

  /// Moves on to the next layer, the original alone. Throws Error where an activation is not
  /// finite.
  void advance();
  /// The same with the converted model at its side, which sees the text through its own layers so
  /// far, all of them. Refits the pooled layer; changes only its projections.
  RefitOutcome advance_beside(LayerProjections& pooled, RefitKind refit);

  /// After the last layer: the converted model's predictions beside the original's, held-out text.
  Likeness likeness() const;

 private:
  FlatParameters block_with(const LayerProjections* pooled, const DecoderConfig& config) const;
  DecoderConfig config_with(const LayerProjections& pooled) const;
  DecoderLayer original_layer() const;
  void begin_layer(int64_t layer);
  void require_finite(const torch::Tensor& stream, const char* whose, int64_t layer) const;
  torch::Tensor new_stream() const;
  torch::Tensor embedded() const;

  const ModelFolder& source_;
  const CalibrationText& text_;
  std::filesystem::path scratch_;
  World& world_;
  DecoderConfig config_;
  RopeAngles angles_;
  int64_t layer_ = 0;
  std::optional<FlatParameters> block_;         // of the original's layer
  torch::Tensor stream_, converted_, targets_;  // [windows * T, d_model]
};

}  // namespace regroup
