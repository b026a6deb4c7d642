// framework/functions/checkpoint.h: activation checkpointing (Chen et al. 2016): keep a function's
// input, compute the inside anew in backward.
#pragma once

#include <torch/types.h>

#include <functional>

namespace regroup {

/// function(x), saving nothing but x. function must be deterministic; gradients of what it captures
/// are left where its own backward leaves them (parameters accumulate into their buffers).
torch::Tensor checkpoint(const std::function<torch::Tensor(const torch::Tensor&)>& function,
                         const torch::Tensor& x);

}  // namespace regroup
