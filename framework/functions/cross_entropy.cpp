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

constexpr int64_t kLogitsPerChunk = 8 * 1024 * 1024;

Tensor checked(const Tensor& targets, const Tensor& hidden) {
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == hidden.size(0), "targets are ",
              targets.sizes(), " for hidden ", hidden.sizes());
  return targets.contiguous();
}

/// Returns the losses of a chunk of logits, rows first .. first + n - 1, and overwrites the logits
/// with the gradient of scale times the sum of the losses.
using RowLosses = std::function<Tensor(Tensor& logits, int64_t first, int64_t n_rows)>;

/// The loss of all rows and its gradients, computed chunk by chunk.
struct LinearLoss : Function<LinearLoss> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden, const Tensor& weight,
                        const RowLosses& row_losses, double scale) {
    auto grad_hidden = torch::empty_like(hidden);
    const auto sums = kernels::sum_type(hidden);
    auto grad_weight = torch::zeros(weight.sizes(), weight.options().dtype(sums));
    auto loss = torch::zeros({}, hidden.options().dtype(torch::kFloat64));
    for_each_logit_chunk(hidden.size(0), weight.size(0), [&](int64_t first, int64_t n_rows) {
      const auto rows = hidden.narrow(0, first, n_rows);
      auto logits = matmul_nt(rows, weight);
      loss += row_losses(logits, first, n_rows).sum(torch::kFloat64);
      grad_hidden.narrow(0, first, n_rows).copy_(matmul_nn(logits, weight));
      add_matmul_tn_(grad_weight, logits, rows);
    });
    context->save_for_backward({grad_hidden, grad_weight.to(weight.scalar_type())});
    return (loss * scale).to(sums);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto factor = grads[0].to(saved[0].scalar_type());
    return {saved[0] * factor, saved[1] * factor, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            double scale) {
  const auto counted = checked(targets, hidden);
  const RowLosses losses = [&](Tensor& logits, int64_t first, int64_t n_rows) {
    return kernels::cross_entropy_(logits, counted.narrow(0, first, n_rows), scale);
  };
  return LinearLoss::apply(hidden, weight, losses, scale);
}

Tensor linear_distillation(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                           const Predictions& teacher, const kernels::Distillation& distillation,
                           double scale) {
  const auto counted = checked(targets, hidden);
  TORCH_CHECK(teacher.hidden.size(0) == hidden.size(0) && teacher.head.size(0) == weight.size(0),
              "a teacher's hidden ", teacher.hidden.sizes(), " and head ", teacher.head.sizes(),
              " for hidden ", hidden.sizes(), " and weight ", weight.sizes());
  const RowLosses losses = [&](Tensor& logits, int64_t first, int64_t n_rows) {
    const auto teacher_logits =
        matmul_nt(teacher.hidden.narrow(0, first, n_rows), teacher.head).to(logits.scalar_type());
    return kernels::distillation_(logits, teacher_logits, counted.narrow(0, first, n_rows),
                                  distillation, scale);
  };
  return LinearLoss::apply(hidden, weight, losses, scale);
}

Tensor linear_token_losses(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  const torch::NoGradGuard no_grad;
  const auto counted = checked(targets, hidden);
  std::vector<Tensor> losses;
  for_each_logit_chunk(hidden.size(0), weight.size(0), [&](int64_t first, int64_t n_rows) {
    auto logits = matmul_nt(hidden.narrow(0, first, n_rows), weight);
    losses.push_back(kernels::cross_entropy_(logits, counted.narrow(0, first, n_rows), 0));
  });
  return torch::cat(losses);
}

void for_each_logit_chunk(int64_t n_rows, int64_t vocab_size,
                          const std::function<void(int64_t, int64_t)>& visit) {
  const int64_t chunk = std::max<int64_t>(1, kLogitsPerChunk / std::max<int64_t>(1, vocab_size));
  for (int64_t first = 0; first < n_rows; first += chunk) {
    visit(first, std::min(chunk, n_rows - first));
  }
}

}  // namespace regroup
