#include "framework/flat_parameters.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"
#include "framework/kernels/operands.h"
#include "framework/random.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Shapes = std::vector<std::vector<int64_t>>;

int64_t numel_of(const std::vector<int64_t>& shape) { return c10::multiply_integers(shape); }

std::vector<Tensor> views(const Tensor& flat, const Shapes& shapes,
                          const std::vector<int64_t>& offsets) {
  std::vector<Tensor> result;
  result.reserve(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    result.push_back(flat.narrow(0, offsets[i], numel_of(shapes[i])).view(shapes[i]));
  }
  return result;
}

/// Gives views of the flat tensor; backward adds their gradients to the block's buffer.
struct Gather : Function<Gather> {
  static variable_list forward(AutogradContext* context, const Tensor& flat, const Tensor& gradient,
                               const Shapes& shapes, const std::vector<int64_t>& offsets) {
    context->saved_data["gradient"] = gradient;
    context->saved_data["offsets"] = offsets;
    return views(flat.detach(), shapes, offsets);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto gradient = context->saved_data["gradient"].toTensor();
    const auto offsets = context->saved_data["offsets"].toIntVector();
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) continue;
      kernels::accumulate_(gradient.narrow(0, offsets[i], grads[i].numel()), grads[i].flatten());
    }
    return {Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

FlatParameters::FlatParameters(const std::vector<ParameterSpec>& parameters,
                               const std::vector<OperandSpec>& operands,
                               torch::TensorOptions options)
    : parameters_(parameters) {
  int64_t total = 0;
  for (const auto& parameter : parameters_) {
    offsets_.push_back(total);
    total += numel_of(parameter.shape);
  }
  size_t next = 0;
  for (const auto& operand : operands) {
    const size_t end = next + static_cast<size_t>(operand.n_parameters);
    TORCH_CHECK(next < end && end <= parameters_.size(), "operands reach for parameter ", end,
                " of ", parameters_.size());
    operand_offsets_.push_back(offsets_[next]);
    auto shape = parameters_[next].shape;
    for (++next; next < end; ++next) {
      const auto& below = parameters_[next].shape;
      TORCH_CHECK(torch::IntArrayRef(below).slice(1) == torch::IntArrayRef(shape).slice(1),
                  parameters_[next].name, " ", torch::IntArrayRef(below),
                  " does not fit below the operand's ", torch::IntArrayRef(shape));
      shape[0] += below[0];
    }
    operand_shapes_.push_back(shape);
  }
  TORCH_CHECK(next == parameters_.size(), "operands cover ", next, " of ", parameters_.size(),
              " parameters");
  flat_ = torch::empty({total}, options.requires_grad(false));
}

std::vector<Tensor> FlatParameters::gather() const {
  if (!has_gradient() || !torch::GradMode::is_enabled()) {
    return views(flat_, operand_shapes_, operand_offsets_);
  }
  return Gather::apply(flat_, gradient_, operand_shapes_, operand_offsets_);
}

Tensor FlatParameters::parameter(size_t index) const {
  const auto& shape = parameters_.at(index).shape;
  return flat_.detach().narrow(0, offsets_[index], numel_of(shape)).view(shape);
}

void FlatParameters::enable_gradient() {
  gradient_ = torch::zeros({numel()}, flat().options().dtype(kernels::sum_type(flat_)));
  flat_.requires_grad_();
}

void initialize(FlatParameters& block, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    const auto& spec = block.parameters()[i];
    auto values = block.parameter(i);
    if (spec.init_std == 0) {
      values.fill_(1);
    } else {
      values.copy_(torch::randn(spec.shape, seeded_generator(seed, spec.name)) * spec.init_std);
    }
  }
}

}  // namespace regroup
