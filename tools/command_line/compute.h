// tools/command_line/compute.h: the options --dtype and --threads.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "tools/command_line/command_line.h"

namespace regroup {

struct Compute {
  torch::ScalarType dtype = torch::kFloat32;
  std::optional<int64_t> threads;

  void declare_on(CommandLine& line);
  /// Sets the number of threads if given; returns the tensor options of a model on the CPU.
  torch::TensorOptions use() const;
};

}  // namespace regroup
