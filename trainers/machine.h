// trainers/machine.h: what this machine does: its arithmetic and memory.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace regroup {

/// FLOP/s that MFU is a share of: in bfloat16 on a GPU that is known, its maker's figure for dense
/// products; else what matrix products reach on this device in this dtype, measured on a square
/// product in under a second. 2 threads and 16 threads have different peaks, so it is measured
/// under the threads in force.
double peak_flops(torch::TensorOptions options);

/// The maker's figure for dense bfloat16 products of a GPU by its name ("NVIDIA H100 80GB HBM3"),
/// FLOP/s; nothing for one that is not known.
std::optional<double> known_peak_flops(const std::string& gpu);

/// Bytes of memory that this process holds now, and the most that it held.
int64_t resident_bytes();
int64_t peak_resident_bytes();
/// The most that its tensors held on a GPU; nothing on the CPU.
std::optional<int64_t> peak_device_bytes(torch::Device device);

}  // namespace regroup
