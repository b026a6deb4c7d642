// tools/command_line/compute.h: --dtype and --threads of a verb, and what they mean to LibTorch.
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
  /// Sets the number of threads where it is given, and returns the options of a model that computes
  /// on the CPU.
  torch::TensorOptions use() const;
};

}  // namespace regroup
