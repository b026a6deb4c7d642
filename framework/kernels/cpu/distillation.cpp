#include <torch/types.h>

#include <cmath>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/target_rows.h"

namespace regroup::kernels::cpu {
namespace {

template <typename Acc>
struct RowOptions {
  Acc weight, temperature, gradient_scale;
};

/// One row: returns its loss and overwrites logits with the gradient.
template <typename T, typename Acc>
REGROUP_INLINE Acc distillation_row(T* logits, const T* teacher, int64_t vocab_size, int64_t target,
                                    RowOptions<Acc> options) {
  const Acc cool = 1 / options.temperature;
  const Acc high = highest(logits, vocab_size), teacher_high = highest(teacher, vocab_size);
  Acc hard = 0, soft = 0, teacher_soft = 0;
#pragma omp simd reduction(+ : hard, soft, teacher_soft)
  for (int64_t i = 0; i < vocab_size; ++i) {
    hard += fast_exp(load(logits, i) - high);
    soft += fast_exp((load(logits, i) - high) * cool);
    teacher_soft += fast_exp((load(teacher, i) - teacher_high) * cool);
  }
  const Acc hard_log = std::log(hard) + high;  // log of the sum of e^logit
  const Acc soft_log = std::log(soft) + high * cool;
  const Acc teacher_log = std::log(teacher_soft) + teacher_high * cool;
  const Acc target_logit = load(logits, target);
  Acc divergence = 0;
#pragma omp simd reduction(+ : divergence)
  for (int64_t i = 0; i < vocab_size; ++i) {
    const Acc log_q = load(logits, i) * cool - soft_log;
    const Acc log_p = load(teacher, i) * cool - teacher_log;
    divergence += fast_exp(log_p) * (log_p - log_q);
  }
  const Acc of_truth = 1 - options.weight;
  const Acc of_teacher = options.weight * options.temperature;  // T² of the loss over T
  if (options.gradient_scale != 0) {
#pragma omp simd
    for (int64_t i = 0; i < vocab_size; ++i) {
      const Acc logit = load(logits, i);
      const Acc q = fast_exp(logit * cool - soft_log);
      const Acc p = fast_exp(load(teacher, i) * cool - teacher_log);
      const Acc gradient = of_truth * fast_exp(logit - hard_log) + of_teacher * (q - p);
      store(logits, i, gradient * options.gradient_scale);
    }
    const Acc q = fast_exp(target_logit * cool - soft_log);
    const Acc p = fast_exp(load(teacher, target) * cool - teacher_log);
    const Acc gradient = of_truth * (fast_exp(target_logit - hard_log) - 1) + of_teacher * (q - p);
    store(logits, target, gradient * options.gradient_scale);
  }
  return of_truth * (hard_log - target_logit) + of_teacher * options.temperature * divergence;
}

#define DEFINE(T)                                                                           \
  REGROUP_CPU_CLONES AccumulatorOf<T> distilled_row(T* logits, const T* teacher,            \
                                                    int64_t vocab_size, int64_t target,     \
                                                    RowOptions<AccumulatorOf<T>> options) { \
    return distillation_row(logits, teacher, vocab_size, target, options);                  \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE

}  // namespace

torch::Tensor distillation_(torch::Tensor& logits, const torch::Tensor& teacher_logits,
                            const torch::Tensor& targets, const Distillation& distillation,
                            double gradient_scale) {
  const int64_t vocab_size = logits.size(-1);
  torch::Tensor loss;
  REGROUP_DISPATCH(logits, "distillation", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    const RowOptions<Acc> options{static_cast<Acc>(distillation.weight),
                                  static_cast<Acc>(distillation.temperature),
                                  static_cast<Acc>(gradient_scale)};
    const auto* teacher = teacher_logits.const_data_ptr<scalar_t>();
    loss = target_rows<scalar_t>(
        logits, targets, gradient_scale != 0, [&](int64_t index, scalar_t* row, int64_t target) {
          return distilled_row(row, teacher + index * vocab_size, vocab_size, target, options);
        });
  });
  return loss;
}

}  // namespace regroup::kernels::cpu
