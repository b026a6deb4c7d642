// models/convert/calibration_text.h: the text on which a conversion is calibrated.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "framework/data/token_data.h"
#include "models/config/decoder_config.h"

namespace regroup {

/// Windows of text. The last n_held_out are held out: methods are fitted to the other windows, and
/// compared and measured on these.
struct CalibrationText {
  torch::Tensor tokens;  // [windows, T + 1] int64
  int64_t n_held_out;

  int64_t n_windows() const { return tokens.size(0); }
  int64_t positions() const { return tokens.size(1) - 1; }
  int64_t n_tokens() const { return n_windows() * positions(); }
};

/// The share of process `rank` of `size`: windows rank, rank + size, ... of those that are fitted,
/// and likewise of those held out. It may be empty.
CalibrationText share_of(const CalibrationText& text, int rank, int size);

/// Whole windows of about 4,096 tokens in total, all of them held out or none.
struct TextChunk {
  int64_t first, n_windows;
  bool held_out;
};
std::vector<TextChunk> chunks(const CalibrationText& text);

/// A view of the rows of a [windows * T, ...] tensor that belong to a chunk.
torch::Tensor rows_of(const torch::Tensor& tensor, const CalibrationText& text,
                      const TextChunk& chunk);

constexpr int64_t kCalibrationTokens = 32768;  // default

/// n_tokens tokens of the split, rounded down to windows of at most 512 tokens, from all parts of
/// it in a fixed order; an eighth of them is held out. Default: kCalibrationTokens, or all if there
/// are fewer. Throws Error where n_tokens is too small for a stable solve or larger than the split.
CalibrationText read_calibration_text(const TokenSplit& split, std::optional<int64_t> n_tokens,
                                      const DecoderConfig& model);

}  // namespace regroup
