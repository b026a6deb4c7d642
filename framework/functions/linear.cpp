#include "framework/functions/linear.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <type_traits>

#include "framework/kernels/kernels.h"
#include "framework/kernels/matmul.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// A prologue is the function before the linear map. Its forward returns the output and whatever
// backward needs besides the inputs. Its backward takes the gradient of the output, whose memory it
// may reuse, and returns the gradients of x and of the prologue's weight, and the output again.
struct Prologue {
  struct Forward {
    Tensor output, statistic;
  };
  struct Backward {
    Tensor grad_x, grad_weight, output;
  };
};

struct NoPrologue : Prologue {
  static Forward forward(const Tensor& x, const Tensor&, double) { return {x, {}}; }
  static Backward backward(const Tensor& x, const Tensor&, const Tensor&, const Tensor& grad) {
    return {grad, {}, x};
  }
};

struct RmsNormPrologue : Prologue {
  static Forward forward(const Tensor& x, const Tensor& weight, double eps) {
    const auto result = kernels::rms_norm(x, weight, eps);
    return {result.normed, result.inverse_rms};
  }
  static Backward backward(const Tensor& x, const Tensor& weight, const Tensor& inverse_rms,
                           Tensor grad) {
    const auto result = kernels::rms_norm_backward(x, weight, inverse_rms, grad);
    return {result.grad_x, result.grad_weight, grad};
  }
};

struct SwigluPrologue : Prologue {
  static Forward forward(const Tensor& x, const Tensor&, double) {
    return {kernels::swiglu(x), {}};
  }
  static Backward backward(const Tensor& x, const Tensor&, const Tensor&, Tensor grad) {
    const auto grad_x = kernels::swiglu_backward(x, grad);
    return {grad_x, {}, grad};
  }
};

template <typename P>
struct PrologueLinear : Function<PrologueLinear<P>> {
  // LibTorch refuses undefined tensors as inputs of a function, but takes empty optionals.
  static Tensor forward(AutogradContext* context, const Tensor& x,
                        const std::optional<Tensor>& prologue_weight, const Tensor& weight,
                        const std::optional<Tensor>& residual, double eps) {
    const auto prologue = P::forward(x, prologue_weight.value_or(Tensor()), eps);
    context->save_for_backward({x, prologue_weight.value_or(Tensor()), weight, prologue.statistic});
    context->saved_data["has_residual"] = residual.has_value();
    return matmul_nt(prologue.output, weight, residual.value_or(Tensor()));
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &prologue_weight = saved[1], &weight = saved[2],
                 &statistic = saved[3];
    const auto grad = grads[0].contiguous();
    // The input needs no gradient where it is data and there is no prologue.
    const bool passes_on = context->needs_input_grad(0) || !std::is_same_v<P, NoPrologue>;
    const auto prologue =
        P::backward(x, prologue_weight, statistic, passes_on ? matmul_nn(grad, weight) : Tensor());
    const auto grad_weight = matmul_tn(grad, prologue.output);
    const auto grad_residual = context->saved_data["has_residual"].toBool() ? grad : Tensor();
    return {prologue.grad_x, prologue.grad_weight, grad_weight, grad_residual, Tensor()};
  }
};

struct RmsNormFunction : Function<RmsNormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        double eps) {
    const auto result = kernels::rms_norm(x, weight, eps);
    context->save_for_backward({x, weight, result.inverse_rms});
    return result.normed;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    auto consumed = grads[0].clone(at::MemoryFormat::Contiguous);
    const auto result = kernels::rms_norm_backward(saved[0], saved[1], saved[2], consumed);
    return {result.grad_x, result.grad_weight, Tensor()};
  }
};

std::optional<Tensor> given(const Tensor& x) {
  return x.defined() ? std::optional<Tensor>(x) : std::nullopt;
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& residual) {
  return PrologueLinear<NoPrologue>::apply(x, std::nullopt, weight, given(residual), 0.0);
}

Tensor rms_norm_linear(const Tensor& x, const Tensor& norm_weight, double eps,
                       const Tensor& weight) {
  return PrologueLinear<RmsNormPrologue>::apply(x, norm_weight, weight, std::nullopt, eps);
}

Tensor swiglu_linear(const Tensor& gate_up, const Tensor& weight, const Tensor& residual) {
  return PrologueLinear<SwigluPrologue>::apply(gate_up, std::nullopt, weight, given(residual), 0.0);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return RmsNormFunction::apply(x, weight, eps);
}

}  // namespace regroup
