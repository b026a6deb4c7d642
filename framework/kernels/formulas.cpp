#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "framework/kernels/kernel_table.h"
#include "framework/kernels/operands.h"

// Nested, so that a formula hides the public function of its name.
namespace regroup::kernels::formulas {
namespace {

RmsNorm rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  const auto wide = widened(x);
  const auto inverse_rms = (wide.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  return {(wide * inverse_rms * widened(weight)).to(x.scalar_type()), inverse_rms.squeeze(-1)};
}

RmsNormGradients rms_norm_backward(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& inverse_rms, torch::Tensor& grad_normed) {
  const auto unit = widened(x) * inverse_rms.unsqueeze(-1);  // [N, d]
  const auto grad = widened(grad_normed);
  const auto grad_unit = grad * widened(weight);
  const auto along = (grad_unit * unit).mean(-1, /*keepdim=*/true);
  const auto grad_x = (grad_unit - unit * along) * inverse_rms.unsqueeze(-1);
  const auto grad_weight = (grad * unit).sum(0);
  grad_normed.copy_(unit * widened(weight));
  return {grad_x.to(x.scalar_type()), grad_weight.to(weight.scalar_type())};
}

torch::Tensor activated(Activation::Kind kind, const torch::Tensor& x) {
  switch (kind) {
    case Activation::Kind::kSilu:
      return torch::silu(x);
    case Activation::Kind::kGelu:
      return torch::gelu(x);
    case Activation::Kind::kGeluTanh:
      return torch::gelu(x, "tanh");
    case Activation::Kind::kRelu:
      return torch::relu(x);
  }
  TORCH_CHECK(false, "not an activation");
}

torch::Tensor activated_backward(Activation::Kind kind, const torch::Tensor& x,
                                 const torch::Tensor& grad) {
  switch (kind) {
    case Activation::Kind::kSilu:
      return torch::silu_backward(grad, x);
    case Activation::Kind::kGelu:
      return torch::gelu_backward(grad, x);
    case Activation::Kind::kGeluTanh:
      return torch::gelu_backward(grad, x, "tanh");
    case Activation::Kind::kRelu:
      return torch::threshold_backward(grad, x, 0);
  }
  TORCH_CHECK(false, "not an activation");
}

torch::Tensor activation(const torch::Tensor& x, const Activation& activation) {
  if (!activation.gated) return activated(activation.kind, widened(x)).to(x.scalar_type());
  const auto parts = widened(x).chunk(2, -1);
  return (activated(activation.kind, parts[0]) * parts[1]).to(x.scalar_type());
}

torch::Tensor activation_backward(const torch::Tensor& x, const Activation& activation,
                                  torch::Tensor& grad) {
  const auto wide = widened(x), wide_grad = widened(grad);
  if (!activation.gated) {
    const auto grad_x = activated_backward(activation.kind, wide, wide_grad);
    grad.copy_(activated(activation.kind, wide));
    return grad_x.to(x.scalar_type());
  }
  const auto parts = wide.chunk(2, -1);
  const auto gate = activated(activation.kind, parts[0]);
  const auto grad_gate = activated_backward(activation.kind, parts[0], wide_grad * parts[1]);
  const auto grad_up = wide_grad * gate;
  grad.copy_(gate * parts[1]);
  return torch::cat({grad_gate, grad_up}, -1).to(x.scalar_type());
}

torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& targets,
                             double gradient_scale) {
  const auto log_probability = torch::log_softmax(widened(logits), -1);
  const auto counted = targets.ge(0);
  const auto index = targets.clamp_min(0).unsqueeze(-1);
  const auto loss = -log_probability.gather(-1, index).squeeze(-1) * counted;
  if (gradient_scale != 0) {
    auto gradient = log_probability.exp();
    gradient.scatter_add_(-1, index, torch::full_like(index, -1, gradient.options()));
    logits.copy_(gradient * gradient_scale * counted.unsqueeze(-1));
  }
  return loss;
}

torch::Tensor distillation_(torch::Tensor& logits, const torch::Tensor& teacher_logits,
                            const torch::Tensor& targets, const Distillation& distillation,
                            double gradient_scale) {
  const auto& [weight, temperature] = distillation;
  const auto log_q = torch::log_softmax(widened(logits) / temperature, -1);
  const auto log_p = torch::log_softmax(widened(teacher_logits) / temperature, -1);
  const auto counted = targets.ge(0).unsqueeze(-1);
  const auto divergence = (log_p.exp() * (log_p - log_q)).sum(-1) * counted.squeeze(-1);
  const auto toward_teacher =
      (log_q.exp() - log_p.exp()) * counted * (weight * temperature * gradient_scale);
  const auto of_text = cross_entropy_(logits, targets, (1 - weight) * gradient_scale);
  if (gradient_scale != 0) {
    // Without weight on the text, cross_entropy_ has not changed the logits.
    const auto toward_text = weight < 1 ? widened(logits) : torch::zeros_like(toward_teacher);
    logits.copy_(toward_text + toward_teacher);
  }
  return (1 - weight) * of_text + weight * temperature * temperature * divergence;
}

void adamw_(const torch::Tensor& parameters, const torch::Tensor& gradient,
            const torch::Tensor& first_moment, const torch::Tensor& second_moment,
            const torch::Tensor& copy, const AdamWStep& step) {
  const auto scaled = gradient * step.gradient_scale;
  first_moment.mul_(step.beta1).add_(scaled, 1 - step.beta1);
  second_moment.mul_(step.beta2).addcmul_(scaled, scaled, 1 - step.beta2);
  const double correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.step));
  const double correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.step));
  const auto denominator = (second_moment / correction2).sqrt_().add_(step.eps);
  parameters.mul_(1 - step.lr * step.weight_decay);
  parameters.addcdiv_(first_moment, denominator, -step.lr / correction1);
  if (copy.defined()) copy.copy_(parameters);
}

void accumulate_(const torch::Tensor& sum, const torch::Tensor& x) { sum.add_(x); }

double sum_of_squares(const torch::Tensor& x) {
  return x.to(torch::kFloat64).square().sum().item<double>();
}

void rotate_(const torch::Tensor& heads, const torch::Tensor& cos, const torch::Tensor& sin,
             int direction) {
  const int64_t half = cos.size(1);
  const auto first = heads.narrow(-1, 0, half);
  const auto second = heads.narrow(-1, half, half);
  const auto head_cos = cos.unsqueeze(1);  // [T, 1, R/2]: the same for all heads
  const auto head_sin = sin.unsqueeze(1) * direction;
  const auto a = widened(first);
  const auto b = widened(second);
  const auto rotated_first = a * head_cos - b * head_sin;
  const auto rotated_second = b * head_cos + a * head_sin;
  first.copy_(rotated_first);
  second.copy_(rotated_second);
}

/// All scores of all heads: for capped ones, which ATen's attention does not have.
torch::Tensor capped_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v, const ScoreRule& rule) {
  // The query heads of a group are rows of one product.
  const auto grouped = widened(q).unflatten(1, {k.size(1), -1});
  const auto products = grouped.flatten(2, 3).matmul(widened(k).mT()) * rule.scale;
  const auto scores = rule.scores(products.view({q.size(0), -1, q.size(2), q.size(2)}), 0);
  const auto weights = scores.softmax(-1).view(products.sizes());
  return weights.matmul(widened(v)).view(q.sizes()).to(q.scalar_type());
}

torch::Tensor attended(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule) {
  const int64_t n_kv_head = (heads.size(2) - n_head) / 2, positions = heads.size(1);
  const auto by_head = heads.transpose(1, 2);
  const auto q = by_head.narrow(1, 0, n_head), k = by_head.narrow(1, n_head, n_kv_head),
             v = by_head.narrow(1, n_head + n_kv_head, n_kv_head);
  const bool is_causal = !rule.alibi && (!rule.window || *rule.window >= positions);
  const auto mask =
      is_causal
          ? std::nullopt
          : std::optional<torch::Tensor>(rule.bias(n_head, 0, positions, q.options()).unsqueeze(0));
  const auto y = rule.soft_cap ? capped_attention(q, k, v, rule)
                               : torch::scaled_dot_product_attention(
                                     q, k, v, mask, /*dropout_p=*/0.0, is_causal, rule.scale,
                                     /*enable_gqa=*/n_head != n_kv_head);
  return y.transpose(1, 2).flatten(2);
}

Attention attention(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule) {
  const torch::NoGradGuard no_grad;
  return {attended(heads, n_head, rule), {}};
}

/// Attends once more, with a graph.
torch::Tensor attention_backward(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule,
                                 const Attention&, const torch::Tensor& grad_outputs) {
  const torch::AutoGradMode with_graph(true);
  const auto leaf = heads.detach().requires_grad_();
  return torch::autograd::grad({attended(leaf, n_head, rule)}, {leaf}, {grad_outputs})[0];
}

torch::Tensor decode_attention(const torch::Tensor& queries, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t past, const ScoreRule& rule) {
  const int64_t positions = queries.size(1), length = past + positions, n_kv_head = keys.size(1);
  // The query heads of a group are rows of one product.
  const auto q = widened(queries).transpose(1, 2).unflatten(1, {n_kv_head, -1});
  const auto k = widened(keys.narrow(2, 0, length)), v = widened(values.narrow(2, 0, length));
  const auto products = q.flatten(2, 3).matmul(k.mT()).mul_(rule.scale);
  const auto scores = rule.scores(products.view({q.size(0), -1, positions, length}), past);
  const auto weights = scores.softmax(-1).view(products.sizes());
  const auto y = weights.matmul(v).view({q.size(0), -1, positions, v.size(3)});
  return y.transpose(1, 2).flatten(2).to(queries.scalar_type());
}

}  // namespace

const KernelTable& table() {
  static constexpr KernelTable kTable{
      .rms_norm = rms_norm,
      .rms_norm_backward = rms_norm_backward,
      .activation = activation,
      .activation_backward = activation_backward,
      .cross_entropy_ = cross_entropy_,
      .distillation_ = distillation_,
      .accumulate_ = accumulate_,
      .sum_of_squares = sum_of_squares,
      .adamw_ = adamw_,
      .rotate_ = rotate_,
      .attention = attention,
      .attention_backward = attention_backward,
      .decode_attention = decode_attention,
  };
  return kTable;
}

}  // namespace regroup::kernels::formulas
