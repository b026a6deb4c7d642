#include "framework/files/tensor_file.h"

#include <c10/util/accumulate.h>

#include <utility>

namespace regroup {

size_t TensorSource::bytes() const {
  return c10::elementSize(dtype) * static_cast<size_t>(c10::multiply_integers(shape));
}

TensorSource tensor_source(std::string name, const at::Tensor& tensor) {
  return {std::move(name), tensor.scalar_type(), tensor.sizes().vec(), [tensor] { return tensor; }};
}

}  // namespace regroup
