// tests/support/close_to.h: comparison of tensors within the precision of their format.
#pragma once

#include <torch/types.h>

#include "tests/support/catch_torch.h"

namespace regroup::testing {

/// Close within the precision of expected's format: bfloat16 has 8 bits.
inline AllClose close_to(const torch::Tensor& expected) {
  switch (expected.scalar_type()) {
    case torch::kBFloat16:
      return AllClose(expected, 1e-3, 1.0 / 128);
    case torch::kFloat32:
      return AllClose(expected, 1e-5, 1e-5);
    default:
      return AllClose(expected, 1e-12, 1e-12);
  }
}

}  // namespace regroup::testing
