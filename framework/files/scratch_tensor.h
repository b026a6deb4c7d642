// framework/files/scratch_tensor.h: scratch tensors that may be larger than the machine's memory:
// small ones are in memory, large ones in an unnamed file that disappears with the process.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

namespace regroup {

constexpr int64_t kScratchInMemory = int64_t{1} << 30;  // bytes

/// An uninitialised contiguous float32 tensor on the CPU; above max_bytes_in_memory backed by a
/// file in `folder`, whose space is reserved immediately. Throws Error where the disk has no room.
torch::Tensor scratch_tensor(at::IntArrayRef shape, const std::filesystem::path& folder,
                             int64_t max_bytes_in_memory = kScratchInMemory);

}  // namespace regroup
