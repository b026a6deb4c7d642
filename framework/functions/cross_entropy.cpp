#include "framework/functions/cross_entropy.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>

#include "framework/kernels/kernels.h"
#include "framework/kernels/matmul.h"
#include "framework/kernels/operands.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t kLogitsPerChunk = 8 * 1024 * 1024, kMostLogitsPerChunk = 32 * 1024 * 1024;
/// With fewer rows in a chunk, reading the head's weights and its gradient's sums takes longer than
/// the products.
constexpr int64_t kRowsPerChunk = 512;

int64_t rows_per_chunk(int64_t vocab_size) {
  const int64_t columns = std::max<int64_t>(1, vocab_size);
  const int64_t wanted = std::max(kRowsPerChunk, kLogitsPerChunk / columns);
  return std::clamp<int64_t>(kMostLogitsPerChunk / columns, 1, wanted);
}

Tensor checked(const Tensor& targets, const Tensor& hidden) {
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == hidden.size(0), "targets are ",
              targets.sizes(), " for hidden ", hidden.sizes());
  return targets.contiguous();
}

/// Returns the losses of a chunk of logits, rows first .. first + n - 1, and overwrites the logits
/// with the gradient of scale times the sum of the losses.
using RowLosses = std::function<Tensor(Tensor& logits, int64_t first, int64_t n_rows)>;

/// cap * tanh(logits / cap) in place -> its slope at each logit.
Tensor cap_(const Tensor& logits, double cap) {
  logits.div_(cap).tanh_();
  auto slope = 1 - logits.square();
  logits.mul_(cap);
  return slope;
}

/// Logits before a cap.
Tensor uncapped(const Tensor& rows, const OutputHead& head) {
  const auto bias = head.bias.defined() ? head.bias.expand({rows.size(0), -1}) : Tensor();
  return matmul_nt(rows, head.weight, bias);
}

/// The loss of all rows and its gradients, computed chunk by chunk.
struct LinearLoss : Function<LinearLoss> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::optional<double>& soft_cap,
                        const RowLosses& row_losses, double scale) {
    const OutputHead head{weight, bias.value_or(Tensor()), soft_cap};
    auto grad_hidden = torch::empty_like(hidden);
    const auto sums = kernels::sum_type(hidden);
    auto grad_weight = torch::zeros(weight.sizes(), weight.options().dtype(sums));
    auto grad_bias = bias ? torch::zeros(bias->sizes(), weight.options().dtype(sums)) : Tensor();
    auto loss = torch::zeros({}, hidden.options().dtype(torch::kFloat64));
    for_each_logit_chunk(hidden.size(0), weight.size(0), [&](int64_t first, int64_t n_rows) {
      const auto rows = hidden.narrow(0, first, n_rows);
      auto logits = uncapped(rows, head);
      const auto slope = soft_cap ? cap_(logits, *soft_cap) : Tensor();
      loss += row_losses(logits, first, n_rows).sum(torch::kFloat64);
      if (soft_cap) logits.mul_(slope);
      grad_hidden.narrow(0, first, n_rows).copy_(matmul_nn(logits, weight));
      add_matmul_tn_(grad_weight, logits, rows);
      if (bias) grad_bias += logits.sum(0, /*keepdim=*/false, sums);
    });
    context->save_for_backward({grad_hidden, grad_weight.to(weight.scalar_type()),
                                bias ? grad_bias.to(bias->scalar_type()) : Tensor()});
    return (loss * scale).to(sums);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto factor = grads[0].to(saved[0].scalar_type());
    return {saved[0] * factor, saved[1] * factor, saved[2].defined() ? saved[2] * factor : Tensor(),
            Tensor(),          Tensor(),          Tensor()};
  }
};

Tensor linear_loss(const Predictions& predictions, const RowLosses& losses, double scale) {
  const auto& [weight, bias, soft_cap] = predictions.head;
  return LinearLoss::apply(predictions.hidden, weight,
                           bias.defined() ? std::optional<Tensor>(bias) : std::nullopt, soft_cap,
                           losses, scale);
}

}  // namespace

Tensor Predictions::logits(int64_t first, int64_t n_rows) const {
  const torch::NoGradGuard no_grad;
  const auto logits = uncapped(hidden.narrow(0, first, n_rows), head);
  if (head.soft_cap) cap_(logits, *head.soft_cap);
  return logits;
}

Tensor linear_cross_entropy(const Predictions& predictions, const Tensor& targets, double scale) {
  const auto counted = checked(targets, predictions.hidden);
  const RowLosses losses = [&](Tensor& logits, int64_t first, int64_t n_rows) {
    return kernels::cross_entropy_(logits, counted.narrow(0, first, n_rows), scale);
  };
  return linear_loss(predictions, losses, scale);
}

Tensor linear_distillation(const Predictions& predictions, const Tensor& targets,
                           const Predictions& teacher, const kernels::Distillation& distillation,
                           double scale) {
  const auto& hidden = predictions.hidden;
  const auto counted = checked(targets, hidden);
  TORCH_CHECK(
      teacher.hidden.size(0) == hidden.size(0) && teacher.vocab_size() == predictions.vocab_size(),
      "a teacher's hidden ", teacher.hidden.sizes(), " and head ", teacher.head.weight.sizes(),
      " for hidden ", hidden.sizes(), " and weight ", predictions.head.weight.sizes());
  const RowLosses losses = [&](Tensor& logits, int64_t first, int64_t n_rows) {
    const auto teacher_logits = teacher.logits(first, n_rows).to(logits.scalar_type());
    return kernels::distillation_(logits, teacher_logits, counted.narrow(0, first, n_rows),
                                  distillation, scale);
  };
  return linear_loss(predictions, losses, scale);
}

Tensor linear_token_losses(const Predictions& predictions, const Tensor& targets) {
  const auto counted = checked(targets, predictions.hidden);
  std::vector<Tensor> losses;
  const int64_t n_tokens = predictions.hidden.size(0);
  for_each_logit_chunk(n_tokens, predictions.vocab_size(), [&](int64_t first, int64_t n_rows) {
    auto logits = predictions.logits(first, n_rows);
    losses.push_back(kernels::cross_entropy_(logits, counted.narrow(0, first, n_rows), 0));
  });
  return torch::cat(losses);
}

void for_each_logit_chunk(int64_t n_rows, int64_t vocab_size,
                          const std::function<void(int64_t, int64_t)>& visit) {
  const int64_t chunk = rows_per_chunk(vocab_size);
  for (int64_t first = 0; first < n_rows; first += chunk) {
    visit(first, std::min(chunk, n_rows - first));
  }
}

}  // namespace regroup
