#include "tools/command_line/compute.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "trainers/train_config.h"

namespace regroup {

void Compute::declare_on(CommandLine& line) {
  line.add("dtype", &dtype, "numbers to compute with", compute_dtypes());
  line.add("threads", &threads, "CPU threads (default: what affinity and the CPU quota allow)",
           between(1, kMostThreads));
}

torch::TensorOptions Compute::use() const {
  if (threads) torch::set_num_threads(static_cast<int>(*threads));
  return torch::TensorOptions().dtype(dtype);
}

}  // namespace regroup
