// framework/kernels/operands.h: the check of a kernel's operands, and the format of its sums.
#pragma once

#include <torch/types.h>

namespace regroup::kernels {

/// float64 for float64, else float32.
inline torch::ScalarType sum_type(torch::ScalarType type) {
  return type == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}
inline torch::ScalarType sum_type(const torch::Tensor& x) { return sum_type(x.scalar_type()); }

/// x converted to its sum_type; x itself where it already has that type.
inline torch::Tensor widened(const torch::Tensor& x) { return x.to(sum_type(x)); }

/// Throws c10::Error, which shows `name` and x, unless x is contiguous and has this shape and the
/// options' dtype and device.
inline void require(const char* name, const torch::Tensor& x, torch::IntArrayRef shape,
                    const torch::TensorOptions& options) {
  TORCH_CHECK(x.defined() && x.sizes() == shape && x.dtype() == options.dtype() &&
                  x.device() == options.device() && x.is_contiguous(),
              name, " is ", x.toString(), " ", x.sizes(), " with strides ", x.strides(),
              ", expected contiguous ", options.dtype(), " ", shape, " on ", options.device());
}

}  // namespace regroup::kernels
