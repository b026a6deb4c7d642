// framework/kernels/cpu/tall_matmul.h: aᵀ b of tall bfloat16 matrices, as in the gradient of a
// weight. Both operands lie across the order in which tiles are read; oneDNN's own product spends
// more time on turning them than on multiplying.
#pragma once

#include <torch/types.h>

namespace regroup::kernels::cpu {

/// True where tall_matmul_ is faster than ATen: bfloat16 with contiguous rows, on a CPU that
/// multiplies in tiles (AMX), all dims large enough.
bool tall_matmul_serves(const torch::Tensor& a, const torch::Tensor& b);

/// result = aᵀ b, or sum += aᵀ b; sums in float32, in an order that depends on no thread. a: [k,
/// m], b: [k, n]; result: [m, n] bfloat16, sum: [m, n] float32, contiguous.
void tall_matmul(const torch::Tensor& a, const torch::Tensor& b, torch::Tensor& result);
void add_tall_matmul_(const torch::Tensor& a, const torch::Tensor& b, torch::Tensor& sum);

}  // namespace regroup::kernels::cpu
