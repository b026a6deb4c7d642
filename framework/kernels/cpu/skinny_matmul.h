// framework/kernels/cpu/skinny_matmul.h: a few rows times a weight matrix, for decoding. Its time
// is that of reading the weight once, in the format in which it is stored.
#pragma once

#include <torch/types.h>

namespace regroup::kernels::cpu {

/// True where skinny_matmul is faster than ATen: on the CPU, float32 or bfloat16, at most 16 rows
/// of x, a contiguous weight.
bool skinny_matmul_serves(const torch::Tensor& x, const torch::Tensor& weight);

/// x weightᵀ, without a graph. x: [m, k], weight: [n, k], contiguous, both float32 or both bfloat16
/// -> [m, n] as x; sums in float32. Throws c10::Error where they differ in dtype, k or device.
torch::Tensor skinny_matmul(const torch::Tensor& x, const torch::Tensor& weight);

}  // namespace regroup::kernels::cpu
