#include <torch/types.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"

namespace regroup::kernels::cpu {
namespace {

constexpr int64_t kElementsPerPartialSum =
    65536;  // fixed, so that sums do not depend on the threads

struct AdamWFactors {
  float beta1, beta2, eps, decay, step_size, inverse_sqrt_correction2, gradient_scale;
};

AdamWFactors factors_of(const AdamWStep& step) {
  const double correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.step));
  const double correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.step));
  return {static_cast<float>(step.beta1),
          static_cast<float>(step.beta2),
          static_cast<float>(step.eps),
          static_cast<float>(1 - step.lr * step.weight_decay),
          static_cast<float>(step.lr / correction1),
          static_cast<float>(1 / std::sqrt(correction2)),
          static_cast<float>(step.gradient_scale)};
}

REGROUP_CPU_CLONES void adamw_range(float* __restrict p, const float* __restrict g,
                                    float* __restrict m, float* __restrict v, int64_t n,
                                    const AdamWFactors& factors) {
  const AdamWFactors f = factors;
  for (int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * f.gradient_scale;
    const float first = m[i] * f.beta1 + gradient * (1.0f - f.beta1);
    const float second = v[i] * f.beta2 + gradient * gradient * (1.0f - f.beta2);
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * f.decay -
           f.step_size * first / (std::sqrt(second) * f.inverse_sqrt_correction2 + f.eps);
  }
}

REGROUP_CPU_CLONES void round_range(const float* __restrict p, c10::BFloat16* __restrict copy,
                                    int64_t n) {
  for (int64_t i = 0; i < n; ++i) store(copy, i, p[i]);
}

REGROUP_CPU_CLONES double squares_range(const float* x, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

REGROUP_CPU_CLONES void add_range(float* __restrict sum, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
}
REGROUP_CPU_CLONES void add_range(float* __restrict sum, const c10::BFloat16* __restrict x,
                                  int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += load(x, i);
}

}  // namespace

void accumulate_(const torch::Tensor& sum, const torch::Tensor& x) {
  if (!sum.is_contiguous() || !x.is_contiguous() || sum.scalar_type() != torch::kFloat32) {
    sum.add_(x);
    return;
  }
  auto* out = sum.mutable_data_ptr<float>();
  parallel_rows(sum.numel(), 1, [&](int64_t begin, int64_t end) {
    if (x.scalar_type() == torch::kBFloat16) {
      add_range(out + begin, x.const_data_ptr<c10::BFloat16>() + begin, end - begin);
    } else {
      add_range(out + begin, x.const_data_ptr<float>() + begin, end - begin);
    }
  });
}

double sum_of_squares(const torch::Tensor& x) {
  const int64_t n = x.numel();
  const int64_t n_partial = (n + kElementsPerPartialSum - 1) / kElementsPerPartialSum;
  std::vector<double> partial(static_cast<size_t>(n_partial));
  const auto* data = x.const_data_ptr<float>();
  at::parallel_for(0, n_partial, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kElementsPerPartialSum;
      partial[static_cast<size_t>(p)] =
          squares_range(data + first, std::min(kElementsPerPartialSum, n - first));
    }
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

void adamw_(const torch::Tensor& parameters, const torch::Tensor& gradient,
            const torch::Tensor& first_moment, const torch::Tensor& second_moment,
            const torch::Tensor& copy, const AdamWStep& step) {
  const AdamWFactors factors = factors_of(step);
  auto* p = parameters.mutable_data_ptr<float>();
  const auto* g = gradient.const_data_ptr<float>();
  auto* m = first_moment.mutable_data_ptr<float>();
  auto* v = second_moment.mutable_data_ptr<float>();
  auto* rounded = copy.defined() ? copy.mutable_data_ptr<c10::BFloat16>() : nullptr;
  parallel_rows(parameters.numel(), 1, [&](int64_t begin, int64_t end) {
    adamw_range(p + begin, g + begin, m + begin, v + begin, end - begin, factors);
    if (rounded) round_range(p + begin, rounded + begin, end - begin);
  });
}

}  // namespace regroup::kernels::cpu
