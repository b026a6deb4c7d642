// models/layers/rope.h: rotary position embedding: the angles of a model's positions, and rotation
// by them.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "models/config/decoder_config.h"

namespace regroup {

/// cos and sin of position times frequency for T consecutive positions, times the scaling's
/// attention_factor: [T, dims / 2] float32 (float64 for float64). Undefined without RoPE.
struct RopeAngles {
  torch::Tensor cos, sin;
};

/// Su et al. 2021, eq. 15: frequency i is theta^(-2i / dims), scaled by RopeScaling. seq_len: the
/// sequence's length, by which kLongRope chooses its factors. -> [dims / 2] in the dtype of
/// options.
torch::Tensor rope_frequencies(const RotaryConfig& config, int64_t seq_len,
                               torch::TensorOptions options);

/// The angles of rope_frequencies().
class Rope {
 public:
  Rope(const RotaryConfig& config, torch::TensorOptions options);

  /// True where positions before `past` have other angles in a sequence of `total` positions.
  bool changes_between(int64_t past, int64_t total) const;
  /// Angles of positions [first, first + count) of a sequence that ends there.
  RopeAngles angles(int64_t first, int64_t count);

 private:
  RotaryConfig config_;
  torch::TensorOptions options_;
  int64_t table_seq_len_ = 0;  // for whose frequencies the table is
  RopeAngles table_;           // of the positions used so far
};

/// The angles of every layer of a model; layers of equal frequencies share them.
class LayerRopes {
 public:
  LayerRopes(const DecoderConfig& config, torch::TensorOptions options);

  /// True where positions before `past` have other angles in a sequence of `total` positions.
  bool change_between(int64_t past, int64_t total) const;
  /// Angles of positions [first, first + count), one entry a layer.
  std::vector<RopeAngles> angles(int64_t first, int64_t count);

 private:
  std::vector<Rope> ropes_;
  std::vector<std::optional<size_t>> rope_of_layer_;  // none: the layer rotates nothing
};

/// kernels::rotate_ by these angles. heads: [B, T, n_head, head_dim].
void rotate_(const torch::Tensor& heads, const RopeAngles& angles, int direction);

}  // namespace regroup
