#include <torch/types.h>

#include <cmath>

#include <vector>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {
namespace {

constexpr int64_t kRowsPerPartialSum = 256;  // fixed, so that sums do not depend on the threads

template <typename T, typename Acc>
REGROUP_INLINE void forward_rows(const T* x, const T* weight, T* normed, Acc* inverse_rms,
                                 int64_t n_rows, int64_t d, Acc eps) {
  for (int64_t row = 0; row < n_rows; ++row) {
    const T* in = x + row * d;
    T* out = normed + row * d;
    Acc squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < d; ++i) squares += load(in, i) * load(in, i);
    const Acc scale = Acc(1) / std::sqrt(squares / static_cast<Acc>(d) + eps);
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) store(out, i, load(in, i) * scale * load(weight, i));
    inverse_rms[row] = scale;
  }
}

template <typename T, typename Acc>
REGROUP_INLINE void backward_rows(const T* x, const T* weight, const Acc* inverse_rms,
                                  T* grad_normed, T* grad_x, Acc* grad_weight, int64_t n_rows,
                                  int64_t d) {
  for (int64_t row = 0; row < n_rows; ++row) {
    const T* in = x + row * d;
    T* grad = grad_normed + row * d;
    T* out = grad_x + row * d;
    const Acc scale = inverse_rms[row];
    Acc along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < d; ++i) along += load(grad, i) * load(weight, i) * load(in, i);
    along *= scale / static_cast<Acc>(d);
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) {
      const Acc unit = load(in, i) * scale;
      const Acc g = load(grad, i);
      const Acc w = load(weight, i);
      grad_weight[i] += g * unit;
      store(out, i, (g * w - unit * along) * scale);
      store(grad, i, unit * w);
    }
  }
}

#define DEFINE(T)                                                                                  \
  REGROUP_CPU_CLONES void forward(const T* x, const T* weight, T* normed,                          \
                                  AccumulatorOf<T>* inverse_rms, int64_t n_rows, int64_t d,        \
                                  AccumulatorOf<T> eps) {                                          \
    forward_rows(x, weight, normed, inverse_rms, n_rows, d, eps);                                  \
  }                                                                                                \
  REGROUP_CPU_CLONES void backward(const T* x, const T* weight,                                    \
                                   const AccumulatorOf<T>* inverse_rms, T* grad_normed, T* grad_x, \
                                   AccumulatorOf<T>* grad_weight, int64_t n_rows, int64_t d) {     \
    backward_rows(x, weight, inverse_rms, grad_normed, grad_x, grad_weight, n_rows, d);            \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE

}  // namespace

RmsNorm rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  const int64_t n_rows = x.size(0), d = x.size(-1);
  RmsNorm result{torch::empty_like(x), torch::empty({n_rows}, x.options().dtype(sum_type(x)))};
  REGROUP_DISPATCH(x, "rms_norm", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* w = weight.const_data_ptr<scalar_t>();
    auto* out = result.normed.mutable_data_ptr<scalar_t>();
    auto* scale = result.inverse_rms.mutable_data_ptr<Acc>();
    parallel_rows(n_rows, d, [&](int64_t begin, int64_t end) {
      forward(in + begin * d, w, out + begin * d, scale + begin, end - begin, d,
              static_cast<Acc>(eps));
    });
  });
  return result;
}

RmsNormGradients rms_norm_backward(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& inverse_rms, torch::Tensor& grad_normed) {
  const int64_t n_rows = x.size(0), d = x.size(-1);
  const int64_t n_partial = (n_rows + kRowsPerPartialSum - 1) / kRowsPerPartialSum;
  auto grad_x = torch::empty_like(x);
  auto partial = torch::zeros({n_partial, d}, inverse_rms.options());
  REGROUP_DISPATCH(x, "rms_norm_backward", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* w = weight.const_data_ptr<scalar_t>();
    const auto* scale = inverse_rms.const_data_ptr<Acc>();
    auto* grad = grad_normed.mutable_data_ptr<scalar_t>();
    auto* out = grad_x.mutable_data_ptr<scalar_t>();
    auto* sums = partial.mutable_data_ptr<Acc>();
    at::parallel_for(0, n_partial, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t first = p * kRowsPerPartialSum;
        const int64_t rows = std::min(kRowsPerPartialSum, n_rows - first);
        backward(in + first * d, w, scale + first, grad + first * d, out + first * d, sums + p * d,
                 rows, d);
      }
    });
  });
  return {grad_x, partial.sum(0).to(weight.scalar_type())};
}

}  // namespace regroup::kernels::cpu
