// trainers/machine.h: what this machine does: its arithmetic and memory.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "framework/progress/progress.h"

namespace regroup {

/// FLOP/s that MFU is a share of: in bfloat16 on a GPU that is known, its maker's figure for dense
/// products; else the most that matrix products have reached on this device, in this dtype, under
/// the threads in force. A moment in which other processes compute lowers what a measurement finds,
/// so the best of all counts, and measuring between the work finds a truer one.
class PeakFlops {
 public:
  /// Also measures products of a model's own shape: rows of d_model numbers times a [d_ff, d_model]
  /// matrix.
  PeakFlops(torch::TensorOptions options, int64_t rows, int64_t d_model, int64_t d_ff);

  /// Measures until the best has stopped rising, for about `seconds` at most.
  void measure(double seconds);
  /// After a first measure().
  double value() const { return best_; }

 private:
  struct Product {
    int64_t rows, inner, columns;
  };

  torch::TensorOptions options_;
  std::vector<Product> products_;  // none: the figure is known
  double best_ = 0;
};

/// The largest of best and what measure() gives, called until that has not risen by a hundredth for
/// some rounds, or `seconds` have passed on the clock.
double settled_best(double best, const std::function<double()>& measure, double seconds,
                    const std::function<double()>& clock = steady_seconds);

/// "MFU 49 %"; above 100 % it says that the measured peak is too low.
std::string mfu_text(double mfu);

/// The maker's figure for dense bfloat16 products of a GPU by its name ("NVIDIA H100 80GB HBM3"),
/// FLOP/s; nothing for one that is not known.
std::optional<double> known_peak_flops(const std::string& gpu);

/// Bytes of memory that this process holds now, and the most that it held.
int64_t resident_bytes();
int64_t peak_resident_bytes();
/// The most that its tensors held on a GPU; nothing on the CPU.
std::optional<int64_t> peak_device_bytes(torch::Device device);

}  // namespace regroup
