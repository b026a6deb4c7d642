// models/convert/attention_task.h: what a layer's attention must compute after its heads were
// pooled.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "framework/distributed/world.h"
#include "models/config/decoder_config.h"
#include "models/convert/calibration_text.h"
#include "models/layers/rope.h"

namespace regroup {

/// The task of a layer's attention with fewer heads: to turn the residual stream that it sees into
/// the one that the original had after attention. So it also corrects the errors of earlier layers.
struct AttentionTask {
  const DecoderConfig& config;  // of the model with fewer heads
  int64_t layer;
  const CalibrationText& text;
  torch::Tensor stream;   // before the layer, converted model: [windows * T, d_model]
  torch::Tensor targets;  // after attention, original model: the same shape
  // What the original's attention writes, where a norm stands between it and the stream; else
  // undefined.
  torch::Tensor written;
  RopeAngles angles;
  World& world;  // each process has its share of the text
};

/// The weight of each token's error: 1 / ||stream||, [rows, 1]. stream: [rows, d]. Errors matter
/// relative to the stream, because norms divide by its size; and without weights a few tokens whose
/// streams are a thousand times larger (Sun et al. 2024, "Massive activations") would dominate.
torch::Tensor token_scale(const torch::Tensor& stream);

}  // namespace regroup
