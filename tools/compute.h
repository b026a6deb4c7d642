// tools/compute.h: what --dtype and --threads of a verb mean to LibTorch.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "tools/command_line.h"

namespace regroup {

/// Sets the number of threads where it is given, and returns the options of a model that computes
/// on the CPU in type.
torch::TensorOptions use_compute(ComputeType type, std::optional<int64_t> threads);

}  // namespace regroup
