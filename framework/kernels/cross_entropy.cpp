#include <torch/types.h>

#include <cmath>

#include "framework/kernels/formulas.h"
#include "framework/kernels/loops.h"
#include "framework/kernels/operands.h"
#include "framework/kernels/parallel_rows.h"

namespace regroup::kernels {
namespace {

/// One row: returns -log softmax(logits)[target] and leaves gradient_scale times its gradient in
/// logits.
template <typename T, typename Acc>
REGROUP_INLINE Acc cross_entropy_row(T* logits, int64_t vocab_size, int64_t target,
                                     Acc gradient_scale) {
  Acc highest = load(logits, 0);
#pragma omp simd reduction(max : highest)
  for (int64_t i = 1; i < vocab_size; ++i) {
    const Acc value = load(logits, i);
    highest = value > highest ? value : highest;
  }
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < vocab_size; ++i) sum += fast_exp(load(logits, i) - highest);
  const Acc log_sum = std::log(sum) + highest;
  const Acc target_logit = load(logits, target);
  if (gradient_scale != 0) {
#pragma omp simd
    for (int64_t i = 0; i < vocab_size; ++i) {
      store(logits, i, fast_exp(load(logits, i) - log_sum) * gradient_scale);
    }
    store(logits, target, (fast_exp(target_logit - log_sum) - Acc(1)) * gradient_scale);
  }
  return log_sum - target_logit;
}

#define DEFINE(T)                                                                             \
  REGROUP_CPU_CLONES AccumulatorOf<T> row_loss(T* logits, int64_t vocab_size, int64_t target, \
                                               AccumulatorOf<T> gradient_scale) {             \
    return cross_entropy_row(logits, vocab_size, target, gradient_scale);                     \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE

}  // namespace

torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& targets,
                             double gradient_scale) {
  const int64_t n_rows = logits.size(0), vocab_size = logits.size(-1);
  require("cross_entropy_: logits", logits, {n_rows, vocab_size}, logits.options());
  require("cross_entropy_: targets", targets, {n_rows}, logits.options().dtype(torch::kInt64));
  if (!logits.is_cpu()) return formulas::cross_entropy_(logits, targets, gradient_scale);
  auto loss = torch::empty({n_rows}, logits.options().dtype(sum_type(logits)));
  REGROUP_DISPATCH(logits, "cross_entropy", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    auto* data = logits.mutable_data_ptr<scalar_t>();
    const auto* target = targets.const_data_ptr<int64_t>();
    auto* out = loss.mutable_data_ptr<Acc>();
    parallel_rows(n_rows, vocab_size, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        auto* row_logits = data + row * vocab_size;
        TORCH_CHECK(target[row] < vocab_size, "target ", target[row], " in a vocabulary of ",
                    vocab_size);
        if (target[row] >= 0) {
          out[row] =
              row_loss(row_logits, vocab_size, target[row], static_cast<Acc>(gradient_scale));
        } else {
          out[row] = 0;
          if (gradient_scale != 0) std::fill_n(row_logits, vocab_size, scalar_t(0));
        }
      }
    });
  });
  return loss;
}

}  // namespace regroup::kernels
