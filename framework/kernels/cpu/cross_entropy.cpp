#include <torch/types.h>

#include <cmath>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/target_rows.h"

namespace regroup::kernels::cpu {
namespace {

/// One row: returns -log softmax(logits)[target] and overwrites logits with gradient_scale times
/// its gradient.
template <typename T, typename Acc>
REGROUP_INLINE Acc cross_entropy_row(T* logits, int64_t vocab_size, int64_t target,
                                     Acc gradient_scale) {
  const Acc high = highest(logits, vocab_size);
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < vocab_size; ++i) sum += fast_exp(load(logits, i) - high);
  const Acc log_sum = std::log(sum) + high;
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
  const int64_t vocab_size = logits.size(-1);
  torch::Tensor loss;
  REGROUP_DISPATCH(logits, "cross_entropy", [&] {
    const auto scale = static_cast<AccumulatorOf<scalar_t>>(gradient_scale);
    loss = target_rows<scalar_t>(logits, targets, gradient_scale != 0,
                                 [&](int64_t, scalar_t* row, int64_t target) {
                                   return row_loss(row, vocab_size, target, scale);
                                 });
  });
  return loss;
}

}  // namespace regroup::kernels::cpu
