#include "models/convert/attention_task.h"

#include <torch/types.h>

namespace regroup {

torch::Tensor token_scale(const torch::Tensor& stream) {
  return stream.square().sum(1, /*keepdim=*/true).sqrt().clamp_min(1e-30).reciprocal();
}

}  // namespace regroup
