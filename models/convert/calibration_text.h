// models/convert/calibration_text.h: the text that a conversion looks at.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "framework/data/token_data.h"
#include "models/decoder_config.h"

namespace regroup {

/// Windows of text, the last n_held_out of which choose and judge what the others fit.
struct CalibrationText {
  torch::Tensor tokens;  // [windows, T + 1] int64
  int64_t n_held_out;

  int64_t n_windows() const { return tokens.size(0); }
  int64_t positions() const { return tokens.size(1) - 1; }
  int64_t n_tokens() const { return n_windows() * positions(); }
};

/// What process `rank` of `size` looks at: every size-th window of those that are fitted, from
/// number rank on, and of those held out. It may have none.
CalibrationText share_of(const CalibrationText& text, int rank, int size);

/// Whole windows of about 4,096 tokens, either all held out or none.
struct TextChunk {
  int64_t first, n_windows;
  bool held_out;
};
std::vector<TextChunk> chunks(const CalibrationText& text);

/// Rows of a [windows * T, ...] tensor that belong to a chunk, as a view.
torch::Tensor rows_of(const torch::Tensor& tensor, const CalibrationText& text,
                      const TextChunk& chunk);

constexpr int64_t kCalibrationTokens = 32768;  // unless told

/// n_tokens tokens of the split, rounded down to windows of at most 512, from all over it in an
/// order that is always the same; an eighth is held out. Not told how many: kCalibrationTokens, or
/// all there are if fewer. Throws Error where there are too few for a stable solve, or fewer than
/// asked for.
CalibrationText read_calibration_text(const TokenSplit& split, std::optional<int64_t> n_tokens,
                                      const DecoderConfig& model);

}  // namespace regroup
