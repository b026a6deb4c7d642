#include <torch/types.h>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"

namespace regroup::kernels::cpu {
namespace {

template <typename T, typename Acc>
REGROUP_INLINE void rotate_head(T* head, const Acc* cos, const Acc* sin, Acc direction,
                                int64_t half) {
  T* __restrict first = head;
  T* __restrict second = head + half;
  for (int64_t i = 0; i < half; ++i) {
    const Acc a = load(first, i), b = load(second, i);
    const Acc c = cos[i], s = sin[i] * direction;
    store(first, i, a * c - b * s);
    store(second, i, b * c + a * s);
  }
}

#define DEFINE(T)                                                                                \
  REGROUP_CPU_CLONES void rotate_heads(T* x, int64_t n_head, int64_t head_stride,                \
                                       const AccumulatorOf<T>* cos, const AccumulatorOf<T>* sin, \
                                       AccumulatorOf<T> direction, int64_t half) {               \
    for (int64_t h = 0; h < n_head; ++h) {                                                       \
      rotate_head(x + h * head_stride, cos, sin, direction, half);                               \
    }                                                                                            \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE

}  // namespace

void rotate_(const torch::Tensor& heads, const torch::Tensor& cos, const torch::Tensor& sin,
             int direction) {
  const int64_t n_position = heads.size(1), half = cos.size(-1);
  const int64_t n_head = heads.size(2);
  REGROUP_DISPATCH(heads, "rotate_", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    auto* data = heads.mutable_data_ptr<scalar_t>();
    const auto* cos_data = cos.const_data_ptr<Acc>();
    const auto* sin_data = sin.const_data_ptr<Acc>();
    const auto rotate_rows = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t t = row % n_position;
        auto* x = data + row / n_position * heads.stride(0) + t * heads.stride(1);
        rotate_heads(x, n_head, heads.stride(2), cos_data + t * half, sin_data + t * half,
                     static_cast<Acc>(direction), half);
      }
    };
    parallel_rows(heads.size(0) * n_position, n_head * heads.size(3), rotate_rows);
  });
}

}  // namespace regroup::kernels::cpu
