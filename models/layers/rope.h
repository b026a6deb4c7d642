// models/layers/rope.h: rotary position embedding: the angles of a model's positions, and rotation
// by them.
#pragma once

#include <torch/types.h>

#include "models/decoder_config.h"

namespace regroup {

/// cos and sin of position times frequency for T consecutive positions: [T, head_dim / 2] float32
/// (float64 for float64).
struct RopeAngles {
  torch::Tensor cos, sin;
};

/// Su et al. 2021, eq. 15: frequency i is theta^(-2i / head_dim), scaled by RopeScaling.
/// -> [head_dim / 2] in the dtype of options.
torch::Tensor rope_frequencies(const DecoderConfig& config, torch::TensorOptions options);

/// The angles of rope_frequencies().
class Rope {
 public:
  explicit Rope(const DecoderConfig& config, torch::TensorOptions options);

  /// Angles of positions [first, first + count).
  RopeAngles angles(int64_t first, int64_t count);

 private:
  torch::Tensor frequencies_;  // [head_dim / 2]
  RopeAngles table_;           // of the positions used so far
};

/// kernels::rotate_ by these angles. heads: [B, T, n_head, head_dim].
void rotate_(const torch::Tensor& heads, const RopeAngles& angles, int direction);

}  // namespace regroup
