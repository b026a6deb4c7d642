#include <torch/torch.h>

#include "framework/kernels/formulas.h"
#include "framework/kernels/loops.h"
#include "framework/kernels/parallel_rows.h"

namespace regroup::kernels {
namespace {

template <typename T, typename Acc>
REGROUP_INLINE void rotate_head(T* head, const Acc* cos, const Acc* sin, Acc direction, int64_t half) {
  T* __restrict first = head;
  T* __restrict second = head + half;
  for (int64_t i = 0; i < half; ++i) {
    const Acc a = load(first, i), b = load(second, i);
    const Acc c = cos[i], s = sin[i] * direction;
    store(first, i, a * c - b * s);
    store(second, i, b * c + a * s);
  }
}

#define DEFINE(T)                                                                                          \
  REGROUP_CPU_CLONES void rotate_heads(T* x, int64_t n_head, int64_t head_stride, const AccumulatorOf<T>* cos, \
                                       const AccumulatorOf<T>* sin, AccumulatorOf<T> direction,            \
                                       int64_t half) {                                                     \
    for (int64_t h = 0; h < n_head; ++h) rotate_head(x + h * head_stride, cos, sin, direction, half);      \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE

}  // namespace

void rotate_(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, int direction) {
  if (!x.is_cpu()) return formulas::rotate_(x, cos, sin, direction);
  TORCH_CHECK(x.dim() == 4 && x.stride(3) == 1 && cos.size(0) == x.size(1) && 2 * cos.size(1) <= x.size(3),
              "rotate_: x ", x.sizes(), " with cos ", cos.sizes());
  const int64_t n_position = x.size(1), n_head = x.size(2), half = cos.size(1);
  REGROUP_DISPATCH(x, "rotate_", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    auto* data = x.mutable_data_ptr<scalar_t>();
    const auto* c = cos.const_data_ptr<Acc>();
    const auto* s = sin.const_data_ptr<Acc>();
    parallel_rows(x.size(0) * n_position, n_head * x.size(3), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t t = row % n_position;
        auto* heads = data + row / n_position * x.stride(0) + t * x.stride(1);
        rotate_heads(heads, n_head, x.stride(2), c + t * half, s + t * half, static_cast<Acc>(direction), half);
      }
    });
  });
}

}  // namespace regroup::kernels
