// trainers/machine.h: what this machine does: its arithmetic and memory.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace regroup {

/// FLOP/s that matrix products reach on this device in this dtype, measured on a square product in
/// under a second: what MFU is a share of. 2 threads and 16 threads have different peaks, so it is
/// measured under the threads in force.
double measured_peak_flops(torch::TensorOptions options);

/// Bytes of memory that this process holds now, and the most that it held.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace regroup
