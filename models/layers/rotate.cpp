#include <torch/types.h>

#include "framework/kernels/loops.h"
#include "framework/kernels/operands.h"
#include "framework/kernels/parallel_rows.h"
#include "models/layers/rope.h"

namespace regroup {
namespace {

using kernels::AccumulatorOf;
using kernels::load;
using kernels::store;

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

void rotate_(const torch::Tensor& heads, const RopeAngles& angles, int direction) {
  const int64_t n_position = heads.size(1), half = angles.cos.size(-1);
  const auto wide = heads.options().dtype(kernels::sum_type(heads));
  kernels::require("rotate_: cos", angles.cos, {n_position, half}, wide);
  kernels::require("rotate_: sin", angles.sin, {n_position, half}, wide);
  TORCH_CHECK(heads.dim() == 4 && heads.stride(3) == 1 && 2 * half <= heads.size(3),
              "rotate_: heads are ", heads.sizes(), " with strides ", heads.strides(),
              " but angles ", angles.cos.sizes());
  if (!heads.is_cpu()) return rotate_formula_(heads, angles, direction);
  const int64_t n_head = heads.size(2);
  REGROUP_DISPATCH(heads, "rotate_", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    auto* data = heads.mutable_data_ptr<scalar_t>();
    const auto* cos = angles.cos.const_data_ptr<Acc>();
    const auto* sin = angles.sin.const_data_ptr<Acc>();
    const auto rotate_rows = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t t = row % n_position;
        auto* x = data + row / n_position * heads.stride(0) + t * heads.stride(1);
        rotate_heads(x, n_head, heads.stride(2), cos + t * half, sin + t * half,
                     static_cast<Acc>(direction), half);
      }
    };
    kernels::parallel_rows(heads.size(0) * n_position, n_head * heads.size(3), rotate_rows);
  });
}

void rotate_formula_(const torch::Tensor& heads, const RopeAngles& angles, int direction) {
  const int64_t half = angles.cos.size(1);
  const auto first = heads.narrow(-1, 0, half);
  const auto second = heads.narrow(-1, half, half);
  const auto cos = angles.cos.unsqueeze(1);  // [T, 1, R/2]: the same for all heads
  const auto sin = angles.sin.unsqueeze(1) * direction;
  const auto a = kernels::widened(first);
  const auto b = kernels::widened(second);
  const auto rotated_first = a * cos - b * sin;
  const auto rotated_second = b * cos + a * sin;
  first.copy_(rotated_first);
  second.copy_(rotated_second);
}

}  // namespace regroup
