// framework/functions/linear.h: linear maps fused with the cheap function before them. Only the
// input of that function is saved; backward recomputes its output, which is the larger part of a
// block's activations. The tensors of one call must have the same dtype (float32, bfloat16 or
// float64) and device; shapes or dtypes that do not match throw c10::Error.
#pragma once

#include <torch/types.h>

#include "framework/kernels/activation.h"

namespace regroup {

/// x -> x weightᵀ + bias. weight: [d_out, d_in], bias: [d_out] or undefined.
struct LinearWeights {
  torch::Tensor weight, bias = {};
};

/// (x - mean) / deviation * gain + bias of each row. kRms (Zhang and Sennrich 2019) takes no mean
/// off and has no bias. gain, bias: [d]; undefined ones are 1 and 0.
struct Norm {
  enum class Kind { kRms, kLayer };
  Kind kind = Kind::kRms;
  double eps = 1e-5;
  torch::Tensor gain = {}, bias = {};
};

/// x weightᵀ + bias (+ residual). x: [N, d_in], residual: [N, d_out] or undefined -> [N, d_out].
torch::Tensor linear(const torch::Tensor& x, const LinearWeights& weights,
                     const torch::Tensor& residual = {});

/// linear(norm(x)). x: [N, d_in], contiguous -> [N, d_out].
torch::Tensor norm_linear(const torch::Tensor& x, const Norm& norm, const LinearWeights& weights);

/// linear(activation(x)) (+ residual). x: [N, d_in], or gated [N, 2 * d_in], gate first;
/// contiguous. residual: [N, d_out] or undefined -> [N, d_out].
torch::Tensor activation_linear(const torch::Tensor& x, const Activation& activation,
                                const LinearWeights& weights, const torch::Tensor& residual = {});

/// The norm without a linear map. x: [N, d], contiguous -> [N, d].
torch::Tensor normed(const torch::Tensor& x, const Norm& norm);

}  // namespace regroup
