#include "models/convert/calibration_text.h"

#include <torch/types.h>

#include <algorithm>

#include "framework/data/batches.h"
#include "framework/errors/error.h"

namespace regroup {
namespace {

constexpr int64_t kLongestWindow = 512;
constexpr int64_t kTokensPerChunk = 4096;
constexpr int64_t kWindowsPerHeldOut = 8;
constexpr uint64_t kOrderSeed = 0;

/// Twice the number of unknowns in each row of the solve.
int64_t least_tokens(const DecoderConfig& model, int64_t positions) {
  int64_t unknowns = std::max(model.d_model, positions);
  for (const auto& layer : model.layers)
    unknowns = std::max(unknowns, layer.attention.n_head * layer.attention.head_dim);
  return 2 * unknowns;
}

}  // namespace

CalibrationText read_calibration_text(const TokenSplit& split, std::optional<int64_t> n_tokens,
                                      const DecoderConfig& model) {
  const int64_t positions = std::min(kLongestWindow, model.max_seq_len);
  const int64_t there_are = (split.n_tokens() - 1) / positions * positions;
  const int64_t wanted = n_tokens.value_or(std::min(kCalibrationTokens, there_are));
  const int64_t least = least_tokens(model, positions);
  if (wanted < least) {
    throw request_error(n_tokens ? std::string("calibration_tokens") : split.where(),
                        c10::str(wanted, " tokens are too few for a stable solve with this model"),
                        c10::str("Give at least ", least, "."));
  }
  if (there_are < wanted) {
    throw Error(split.where(), c10::str("has ", there_are, " tokens, ", wanted, " are asked for"),
                "Give more text, or fewer calibration tokens.");
  }
  const int64_t n_windows = wanted / positions;
  Batches windows(split, positions, kOrderSeed);
  return {windows.gather(0, n_windows), std::max<int64_t>(1, n_windows / kWindowsPerHeldOut)};
}

CalibrationText share_of(const CalibrationText& text, int rank, int size) {
  const int64_t n_fit = text.n_windows() - text.n_held_out;
  const auto every = [&](int64_t first, int64_t count) {
    const auto windows = text.tokens.narrow(0, first, count);
    return windows.slice(0, std::min<int64_t>(rank, count), count, size);
  };
  const auto held_out = every(n_fit, text.n_held_out);
  return {torch::cat({every(0, n_fit), held_out}), held_out.size(0)};
}

std::vector<TextChunk> chunks(const CalibrationText& text) {
  const int64_t per_chunk = std::max<int64_t>(1, kTokensPerChunk / text.positions());
  const int64_t n_fit = text.n_windows() - text.n_held_out;
  std::vector<TextChunk> result;
  const auto cut = [&](int64_t begin, int64_t end, bool held_out) {
    for (int64_t first = begin; first < end; first += per_chunk)
      result.push_back({first, std::min(per_chunk, end - first), held_out});
  };
  cut(0, n_fit, false);
  cut(n_fit, text.n_windows(), true);
  return result;
}

torch::Tensor rows_of(const torch::Tensor& tensor, const CalibrationText& text,
                      const TextChunk& chunk) {
  return tensor.narrow(0, chunk.first * text.positions(), chunk.n_windows * text.positions());
}

}  // namespace regroup
