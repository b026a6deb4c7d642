// framework/kernels/matmul.h: the one place where matrices are multiplied, so that each device and
// number format takes its fastest path. On CPUs without bfloat16 instructions ATen's bfloat16 GEMM
// is 10 to 100 times slower than its float32 GEMM; there, operands are widened to float32 and the
// result is rounded. ATen has a GEMM for every device, so products are not in the kernel
// table: these functions only choose between ATen's GEMM and its three substitutes on the CPU. No
// product builds a graph: framework/functions/linear.h has the gradients. Operands are matrices of
// one dtype and device with any strides; shapes that do not match are refused with c10::Error.
#pragma once

#include <torch/types.h>

#include "framework/kernels/bfloat16.h"

namespace regroup {

/// a bᵀ (+ residual). a: [m, k], b: [n, k], residual: [m, n] or undefined -> [m, n], same dtype.
torch::Tensor matmul_nt(const torch::Tensor& a, const torch::Tensor& b,
                        const torch::Tensor& residual = {});

/// a b. a: [m, k], b: [k, n] -> [m, n].
torch::Tensor matmul_nn(const torch::Tensor& a, const torch::Tensor& b);

/// aᵀ b. a: [k, m], b: [k, n] -> [m, n].
torch::Tensor matmul_tn(const torch::Tensor& a, const torch::Tensor& b);

/// sum += aᵀ b in sum's precision; ATen's bfloat16 product is rounded before it is added. a: [k,
/// m], b: [k, n], sum: [m, n] float32 or a's dtype.
void add_matmul_tn_(torch::Tensor& sum, const torch::Tensor& a, const torch::Tensor& b);

}  // namespace regroup
