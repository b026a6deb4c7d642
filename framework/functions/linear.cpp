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
// may reuse, and returns the gradients of x and of the prologue's own weights, and the output
// again.
struct Prologue {
  struct Weights {
    Tensor gain, bias;
  };
  struct Forward {
    Tensor output, mean, scale;
  };
  struct Backward {
    Tensor grad_x, grad_gain, grad_bias, output;
  };
};

std::optional<Tensor> given(const Tensor& x) {
  return x.defined() ? std::optional<Tensor>(x) : std::nullopt;
}

struct NoPrologue : Prologue {
  static Forward forward(const Tensor& x, const Weights&, double) { return {x, {}, {}}; }
  static Backward backward(const Tensor& x, const Weights&, const Forward&, double,
                           const Tensor& grad) {
    return {grad, {}, {}, x};
  }
};

struct RmsNormPrologue : Prologue {
  static Forward forward(const Tensor& x, const Weights& weights, double eps) {
    const auto result = kernels::rms_norm(x, weights.gain, eps);
    return {result.normed, {}, result.inverse_rms};
  }
  static Backward backward(const Tensor& x, const Weights& weights, const Forward& saved, double,
                           Tensor grad) {
    const auto result = kernels::rms_norm_backward(x, weights.gain, saved.scale, grad);
    return {result.grad_x, result.grad_weight, {}, grad};
  }
};

struct LayerNormPrologue : Prologue {
  static Forward forward(const Tensor& x, const Weights& weights, double eps) {
    auto [output, mean, scale] =
        torch::native_layer_norm(x, x.size(-1), given(weights.gain), given(weights.bias), eps);
    return {output, mean, scale};
  }
  static Backward backward(const Tensor& x, const Weights& weights, const Forward& saved,
                           double eps, const Tensor& grad) {
    const auto [grad_x, grad_gain, grad_bias] = torch::native_layer_norm_backward(
        grad, x, x.size(-1), saved.mean, saved.scale, given(weights.gain), given(weights.bias),
        {true, weights.gain.defined(), weights.bias.defined()});
    return {grad_x, grad_gain, grad_bias, forward(x, weights, eps).output};
  }
};

template <Activation::Kind kind, bool gated>
struct ActivationPrologue : Prologue {
  static constexpr Activation kActivation{kind, gated};

  static Forward forward(const Tensor& x, const Weights&, double) {
    return {kernels::activation(x, kActivation), {}, {}};
  }
  static Backward backward(const Tensor& x, const Weights&, const Forward&, double, Tensor grad) {
    const auto grad_x = kernels::activation_backward(x, kActivation, grad);
    return {grad_x, {}, {}, grad};
  }
};

/// The tensor that a product is added to; undefined if there is none.
Tensor addend(const Tensor& residual, const Tensor& bias, const Tensor& x) {
  if (!bias.defined()) return residual;
  return residual.defined() ? residual + bias : bias.expand({x.size(0), bias.size(0)});
}

template <typename P>
struct PrologueLinear : Function<PrologueLinear<P>> {
  // LibTorch refuses undefined tensors as inputs of a function, but takes empty optionals.
  static Tensor forward(AutogradContext* context, const Tensor& x,
                        const std::optional<Tensor>& gain, const std::optional<Tensor>& norm_bias,
                        const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& residual, double eps) {
    const typename P::Weights weights{gain.value_or(Tensor()), norm_bias.value_or(Tensor())};
    const auto prologue = P::forward(x, weights, eps);
    context->save_for_backward(
        {x, weights.gain, weights.bias, weight, prologue.mean, prologue.scale});
    context->saved_data["eps"] = eps;
    context->saved_data["has_bias"] = bias.has_value();
    context->saved_data["has_residual"] = residual.has_value();
    const auto plus = addend(residual.value_or(Tensor()), bias.value_or(Tensor()), x);
    return matmul_nt(prologue.output, weight, plus);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto& x = saved[0];
    const auto& weight = saved[3];
    const auto grad = grads[0].contiguous();
    // The input needs no gradient where it is data and there is no prologue.
    const bool passes_on = context->needs_input_grad(0) || !std::is_same_v<P, NoPrologue>;
    const auto prologue = P::backward(x, {saved[1], saved[2]}, {{}, saved[4], saved[5]},
                                      context->saved_data["eps"].toDouble(),
                                      passes_on ? matmul_nn(grad, weight) : Tensor());
    const auto grad_weight = matmul_tn(grad, prologue.output);
    const auto grad_bias = context->saved_data["has_bias"].toBool() ? grad.sum(0) : Tensor();
    const auto grad_residual = context->saved_data["has_residual"].toBool() ? grad : Tensor();
    return {prologue.grad_x, prologue.grad_gain, prologue.grad_bias,
            grad_weight,     grad_bias,          grad_residual,
            Tensor()};
  }
};

template <typename P>
Tensor apply(const Tensor& x, const Norm& norm, const LinearWeights& weights,
             const Tensor& residual) {
  return PrologueLinear<P>::apply(x, given(norm.gain), given(norm.bias), weights.weight,
                                  given(weights.bias), given(residual), norm.eps);
}

template <Activation::Kind kind>
Tensor apply(const Tensor& x, bool gated, const LinearWeights& weights, const Tensor& residual) {
  return gated ? apply<ActivationPrologue<kind, true>>(x, {}, weights, residual)
               : apply<ActivationPrologue<kind, false>>(x, {}, weights, residual);
}

template <typename P>
struct NormFunction : Function<NormFunction<P>> {
  static Tensor forward(AutogradContext* context, const Tensor& x,
                        const std::optional<Tensor>& gain, const std::optional<Tensor>& bias,
                        double eps) {
    const typename P::Weights weights{gain.value_or(Tensor()), bias.value_or(Tensor())};
    const auto result = P::forward(x, weights, eps);
    context->save_for_backward({x, weights.gain, weights.bias, result.mean, result.scale});
    context->saved_data["eps"] = eps;
    return result.output;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto result = P::backward(saved[0], {saved[1], saved[2]}, {{}, saved[3], saved[4]},
                                    context->saved_data["eps"].toDouble(),
                                    grads[0].clone(at::MemoryFormat::Contiguous));
    return {result.grad_x, result.grad_gain, result.grad_bias, Tensor()};
  }
};

}  // namespace

Tensor linear(const Tensor& x, const LinearWeights& weights, const Tensor& residual) {
  return apply<NoPrologue>(x, {}, weights, residual);
}

Tensor norm_linear(const Tensor& x, const Norm& norm, const LinearWeights& weights) {
  return norm.kind == Norm::Kind::kRms ? apply<RmsNormPrologue>(x, norm, weights, {})
                                       : apply<LayerNormPrologue>(x, norm, weights, {});
}

Tensor activation_linear(const Tensor& x, const Activation& activation,
                         const LinearWeights& weights, const Tensor& residual) {
  switch (activation.kind) {
    case Activation::Kind::kSilu:
      return apply<Activation::Kind::kSilu>(x, activation.gated, weights, residual);
    case Activation::Kind::kGelu:
      return apply<Activation::Kind::kGelu>(x, activation.gated, weights, residual);
    case Activation::Kind::kGeluTanh:
      return apply<Activation::Kind::kGeluTanh>(x, activation.gated, weights, residual);
    case Activation::Kind::kRelu:
      return apply<Activation::Kind::kRelu>(x, activation.gated, weights, residual);
  }
  TORCH_CHECK(false, "not an activation");
}

Tensor normed(const Tensor& x, const Norm& norm) {
  const auto apply = [&]<typename P>(P) {
    return NormFunction<P>::apply(x, given(norm.gain), given(norm.bias), norm.eps);
  };
  return norm.kind == Norm::Kind::kRms ? apply(RmsNormPrologue()) : apply(LayerNormPrologue());
}

}  // namespace regroup
