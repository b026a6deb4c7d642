// framework/data/batches.h: which window of tokens stands where in training; depends on seed and
// position only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "framework/data/token_data.h"

namespace regroup {

/// Cuts a split into windows of seq_len + 1 tokens, window i beginning at token i * seq_len, so
/// that every token but the first is predicted once, and puts them in a new order every epoch.
/// Sequence p of a run (counted over all steps and processes) is in epoch p / n_windows; its window
/// depends on the seed and p alone, so a run resumes at any number of processes with the same data.
/// One thread at a time.
class Batches {
 public:
  /// The split must outlive this. Without a seed the windows stay in the file's order. Throws Error
  /// when the split is shorter than one window.
  Batches(const TokenSplit& split, int64_t seq_len, std::optional<uint64_t> shuffle_seed);

  int64_t n_windows() const { return n_windows_; }
  int64_t seq_len() const { return seq_len_; }

  /// The window of the sequence at this position of the run.
  int64_t window_at(int64_t position);

  /// Sequences [first_position, first_position + count) -> int64 [count, seq_len + 1]: the first
  /// seq_len columns are inputs, the last seq_len their targets.
  at::Tensor gather(int64_t first_position, int64_t count);

 private:
  const TokenSplit& split_;
  int64_t seq_len_;
  int64_t n_windows_;
  std::optional<uint64_t> shuffle_seed_;
  int64_t epoch_ = -1;          // whose order is kept
  std::vector<int64_t> order_;  // of epoch_: place in the epoch to window
};

}  // namespace regroup
