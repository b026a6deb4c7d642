// framework/functions/checkpoint.h: activation checkpointing (Chen et al. 2016): saves a function's
// input and recomputes its activations in backward.
#pragma once

#include <torch/types.h>

#include <functional>

namespace regroup {

/// function(x), saving only x. function must be deterministic. Tensors that it captures get their
/// gradients when backward runs it again (parameters accumulate into their buffers).
torch::Tensor checkpoint(const std::function<torch::Tensor(const torch::Tensor&)>& function,
                         const torch::Tensor& x);

}  // namespace regroup
