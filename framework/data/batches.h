// framework/data/batches.h: the order in which training sees the windows of a split; depends only
// on seed and position.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "framework/data/token_data.h"

namespace regroup {

/// Cuts a split into windows of seq_len + 1 tokens and shuffles them anew every epoch. Window i
/// starts at token i * seq_len, so every token except the first is predicted once. Sequence p of a
/// run (counted over all steps and processes) is in epoch p / n_windows. Its window depends only on
/// the seed and p, so a run resumes at any number of processes with the same data. Not thread safe.
class Batches {
 public:
  /// split must outlive this. Without a seed the windows stay in the order of the file. Throws
  /// Error where the split is shorter than one window.
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
  int64_t epoch_ = -1;          // of order_
  std::vector<int64_t> order_;  // of epoch_: place in the epoch to window
};

}  // namespace regroup
