#include "tools/compute.h"

#include <torch/torch.h>

namespace regroup {

torch::TensorOptions use_compute(ComputeType type, std::optional<int64_t> threads) {
  if (threads) torch::set_num_threads(static_cast<int>(*threads));
  return torch::TensorOptions().dtype(type == ComputeType::kBf16 ? torch::kBFloat16
                                                                 : torch::kFloat32);
}

}  // namespace regroup
