#include "framework/functions/checkpoint.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using TensorFunction = std::function<Tensor(const Tensor&)>;

struct Recompute : torch::CustomClassHolder {
  explicit Recompute(TensorFunction function_) : function(std::move(function_)) {}
  TensorFunction function;
};

struct Checkpoint : Function<Checkpoint> {
  static Tensor forward(AutogradContext* context, const Tensor& x,
                        const c10::intrusive_ptr<Recompute>& recompute) {
    context->save_for_backward({x});
    context->saved_data["recompute"] = c10::IValue::make_capsule(recompute);
    return recompute->function(x);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto capsule = context->saved_data["recompute"].toCapsule();
    const auto& recompute = static_cast<const Recompute&>(*capsule);
    const auto x = context->get_saved_variables()[0].detach().requires_grad_();
    const torch::AutoGradMode with_graph(true);
    const auto y = recompute.function(x);
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), Tensor()};
  }
};

}  // namespace

Tensor checkpoint(const TensorFunction& function, const Tensor& x) {
  if (!torch::GradMode::is_enabled()) return function(x);
  return Checkpoint::apply(x, c10::make_intrusive<Recompute>(function));
}

}  // namespace regroup
