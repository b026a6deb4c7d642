// framework/functions/linear.h: linear maps fused with the cheap function before them. Only the
// input of that function is saved; backward recomputes its output, which is the larger part of a
// block's activations. The tensors of one call must have the same dtype (float32, bfloat16 or
// float64) and device; shapes or dtypes that do not match throw c10::Error.
#pragma once

#include <torch/types.h>

namespace regroup {

/// x weightᵀ (+ residual). x: [N, d_in], weight: [d_out, d_in], residual: [N, d_out] or undefined
/// -> [N, d_out].
torch::Tensor linear(const torch::Tensor& x, const torch::Tensor& weight,
                     const torch::Tensor& residual = {});

/// linear(rms_norm(x), weight). x: [N, d_in] and norm_weight: [d_in], contiguous; weight: [d_out,
/// d_in]
/// -> [N, d_out]. kernels::rms_norm has the formula.
torch::Tensor rms_norm_linear(const torch::Tensor& x, const torch::Tensor& norm_weight, double eps,
                              const torch::Tensor& weight);

/// linear(swiglu(gate_up), weight) (+ residual). gate_up: [N, 2 * d_in], gate first, contiguous;
/// weight: [d_out, d_in], residual: [N, d_out] or undefined -> [N, d_out].
torch::Tensor swiglu_linear(const torch::Tensor& gate_up, const torch::Tensor& weight,
                            const torch::Tensor& residual = {});

/// Root-mean-square norm without a linear map. x: [N, d], weight: [d], contiguous -> [N, d].
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

}  // namespace regroup
