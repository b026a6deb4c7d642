// framework/kernels/skinny_matmul.h: a few rows times a weight matrix, as decoding does it: bound
// by reading the weight once, in whatever format it is held.
#pragma once

#include <torch/types.h>

namespace regroup::kernels {

/// True for the shapes and formats that skinny_matmul is the better path for: on the CPU, float32
/// or bfloat16, at most 16 rows.
bool skinny_matmul_serves(const torch::Tensor& x, const torch::Tensor& weight);

/// x weightᵀ, without a graph. x: [m, k], weight: [n, k], contiguous, both float32 or both bfloat16
/// -> [m, n] as x; sums in float32.
torch::Tensor skinny_matmul(const torch::Tensor& x, const torch::Tensor& weight);

}  // namespace regroup::kernels
