#include "framework/kernels/kernels.h"

#include <torch/types.h>

#include <array>

#include "framework/kernels/kernel_table.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels {
namespace {

const KernelTable& kernels_of(const torch::Tensor& x) {
  return kernels::kernels_of(x.device().type());
}

void require_targets(const char* name, const torch::Tensor& logits, const torch::Tensor& targets) {
  require(name, targets, {logits.size(0)}, logits.options().dtype(torch::kInt64));
}

int64_t activated_width(const torch::Tensor& x, const Activation& activation) {
  return activation.gated ? x.size(-1) / 2 : x.size(-1);
}

void require_heads(const char* name, const torch::Tensor& heads, int64_t n_head) {
  TORCH_CHECK(heads.dim() == 4, name, " are ", heads.sizes());
  require(name, heads, heads.sizes(), heads.options());
  const int64_t n_kv_heads = heads.size(2) - n_head;  // keys and values
  TORCH_CHECK(n_head > 0 && n_kv_heads > 0 && n_kv_heads % 2 == 0 && n_head % (n_kv_heads / 2) == 0,
              name, ": ", n_head, " query heads of ", heads.size(2), " heads");
}

}  // namespace

const KernelTable& kernels_of(c10::DeviceType device) {
  switch (device) {
    case c10::DeviceType::CPU:
      return cpu::table();
    default:
      return formulas::table();
  }
}

RmsNorm rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  const int64_t n_rows = x.size(0), d = x.size(-1);
  require("rms_norm: x", x, {n_rows, d}, x.options());
  require("rms_norm: weight", weight, {d}, x.options());
  return kernels_of(x).rms_norm(x, weight, eps);
}

RmsNormGradients rms_norm_backward(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& inverse_rms, torch::Tensor& grad_normed) {
  const int64_t n_rows = x.size(0), d = x.size(-1);
  require("rms_norm_backward: x", x, {n_rows, d}, x.options());
  require("rms_norm_backward: weight", weight, {d}, x.options());
  require("rms_norm_backward: inverse_rms", inverse_rms, {n_rows}, x.options().dtype(sum_type(x)));
  require("rms_norm_backward: grad_normed", grad_normed, {n_rows, d}, x.options());
  return kernels_of(x).rms_norm_backward(x, weight, inverse_rms, grad_normed);
}

torch::Tensor activation(const torch::Tensor& x, const Activation& activation) {
  const int64_t n_rows = x.size(0), d = activated_width(x, activation);
  require("activation: x", x, {n_rows, activation.gated ? 2 * d : d}, x.options());
  return kernels_of(x).activation(x, activation);
}

torch::Tensor activation_backward(const torch::Tensor& x, const Activation& activation,
                                  torch::Tensor& grad) {
  const int64_t n_rows = x.size(0), d = activated_width(x, activation);
  require("activation_backward: x", x, {n_rows, activation.gated ? 2 * d : d}, x.options());
  require("activation_backward: grad", grad, {n_rows, d}, x.options());
  return kernels_of(x).activation_backward(x, activation, grad);
}

torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& targets,
                             double gradient_scale) {
  require("cross_entropy_: logits", logits, {logits.size(0), logits.size(-1)}, logits.options());
  require_targets("cross_entropy_: targets", logits, targets);
  return kernels_of(logits).cross_entropy_(logits, targets, gradient_scale);
}

torch::Tensor distillation_(torch::Tensor& logits, const torch::Tensor& teacher_logits,
                            const torch::Tensor& targets, const Distillation& distillation,
                            double gradient_scale) {
  const std::array<int64_t, 2> shape{logits.size(0), logits.size(-1)};
  require("distillation_: logits", logits, shape, logits.options());
  require("distillation_: teacher_logits", teacher_logits, shape, logits.options());
  require_targets("distillation_: targets", logits, targets);
  return kernels_of(logits).distillation_(logits, teacher_logits, targets, distillation,
                                          gradient_scale);
}

void accumulate_(const torch::Tensor& sum, const torch::Tensor& x) {
  TORCH_CHECK(x.sizes() == sum.sizes() && x.device() == sum.device(), "accumulate_: x is ",
              x.sizes(), " on ", x.device(), ", sum ", sum.sizes(), " on ", sum.device());
  kernels_of(sum).accumulate_(sum, x);
}

double sum_of_squares(const torch::Tensor& x) {
  require("sum_of_squares: x", x, {x.numel()}, x.options().dtype(torch::kFloat32));
  return kernels_of(x).sum_of_squares(x);
}

void adamw_(const torch::Tensor& parameters, const torch::Tensor& gradient,
            const torch::Tensor& first_moment, const torch::Tensor& second_moment,
            const torch::Tensor& copy, const AdamWStep& step) {
  const auto float32 = parameters.options().dtype(torch::kFloat32);
  const std::array<int64_t, 1> shape{parameters.numel()};
  require("adamw_: parameters", parameters, shape, float32);
  require("adamw_: gradient", gradient, shape, float32);
  require("adamw_: first_moment", first_moment, shape, float32);
  require("adamw_: second_moment", second_moment, shape, float32);
  if (copy.defined()) require("adamw_: copy", copy, shape, float32.dtype(torch::kBFloat16));
  kernels_of(parameters).adamw_(parameters, gradient, first_moment, second_moment, copy, step);
}

void rotate_(const torch::Tensor& heads, const torch::Tensor& cos, const torch::Tensor& sin,
             int direction) {
  const int64_t n_position = heads.size(1), half = cos.size(-1);
  const auto wide = heads.options().dtype(sum_type(heads));
  require("rotate_: cos", cos, {n_position, half}, wide);
  require("rotate_: sin", sin, {n_position, half}, wide);
  TORCH_CHECK(heads.dim() == 4 && heads.stride(3) == 1 && 2 * half <= heads.size(3),
              "rotate_: heads are ", heads.sizes(), " with strides ", heads.strides(),
              " but angles ", cos.sizes());
  kernels_of(heads).rotate_(heads, cos, sin, direction);
}

Attention attention(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule) {
  require_heads("attention: heads", heads, n_head);
  return kernels_of(heads).attention(heads, n_head, rule);
}

torch::Tensor attention_backward(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule,
                                 const Attention& forward, const torch::Tensor& grad_outputs) {
  require_heads("attention_backward: heads", heads, n_head);
  const std::array<int64_t, 3> shape{heads.size(0), heads.size(1), n_head * heads.size(3)};
  require("attention_backward: outputs", forward.outputs, shape, heads.options());
  require("attention_backward: grad_outputs", grad_outputs, shape, heads.options());
  return kernels_of(heads).attention_backward(heads, n_head, rule, forward, grad_outputs);
}

torch::Tensor decode_attention(const torch::Tensor& queries, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t past, const ScoreRule& rule) {
  TORCH_CHECK(queries.dim() == 4 && keys.dim() == 4, "decode_attention: queries are ",
              queries.sizes(), ", keys ", keys.sizes());
  const int64_t n_head = queries.size(2), n_kv_head = keys.size(1), capacity = keys.size(2);
  const std::array<int64_t, 4> cached{queries.size(0), n_kv_head, capacity, queries.size(3)};
  require("decode_attention: keys", keys, cached, queries.options());
  require("decode_attention: values", values, cached, queries.options());
  TORCH_CHECK(n_kv_head > 0 && n_head % n_kv_head == 0, "decode_attention: ", n_head,
              " query heads over ", n_kv_head, " K/V heads");
  TORCH_CHECK(past >= 0 && past + queries.size(1) <= capacity,
              "decode_attention: ", queries.size(1), " positions after ", past, " in a cache of ",
              capacity);
  return kernels_of(queries).decode_attention(queries, keys, values, past, rule);
}

}  // namespace regroup::kernels
