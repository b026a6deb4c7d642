#include "framework/kernels/activation.h"

#include <torch/types.h>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"

namespace regroup::kernels::cpu {
namespace {

template <typename Acc>
struct Point {
  Acc value, slope;
};

struct Silu {
  template <typename Acc>
  REGROUP_INLINE static Acc value(Acc x) {
    return x / (Acc(1) + fast_exp(-x));
  }
  template <typename Acc>
  REGROUP_INLINE static Point<Acc> point(Acc x) {
    const Acc sigmoid = Acc(1) / (Acc(1) + fast_exp(-x));
    const Acc silu = x * sigmoid;
    return {silu, sigmoid + silu * (Acc(1) - sigmoid)};
  }
};

template <typename Acc>
struct Normal {
  Acc below, density;  // Φ(x) and its derivative
};

/// Φ(-t) = exp(-t² / 2) P(u) with u = 1 / (1 + 0.35 t): P, of degree 9, has the least relative
/// error for t below 14, 3e-8. So the negative tail keeps its relative precision too.
REGROUP_INLINE Normal<float> normal(float x) {
  const float t = __builtin_fabsf(x);
  const float bell = fast_exp(-0.5f * t * t);
  const float u = 1.0f / (1.0f + 0.35f * t);
  float p = -2.914543031e-2f;
  p = p * u + 1.439694537e-1f;
  p = p * u - 2.557099962e-1f;
  p = p * u + 1.591697123e-1f;
  p = p * u - 2.310704624e-2f;
  p = p * u + 1.055069326e-1f;
  p = p * u + 1.198331133e-1f;
  p = p * u + 1.398618390e-1f;
  p = p * u + 1.396214059e-1f;
  const float tail = bell * (p * u);
  return {x < 0.0f ? tail : 1.0f - tail, 0.39894228f * bell};
}
REGROUP_INLINE Normal<double> normal(double x) {
  return {0.5 * __builtin_erfc(-x * 0.70710678118654752440),
          0.39894228040143267794 * fast_exp(-0.5 * x * x)};
}

struct Gelu {
  template <typename Acc>
  REGROUP_INLINE static Acc value(Acc x) {
    return x * normal(x).below;
  }
  template <typename Acc>
  REGROUP_INLINE static Point<Acc> point(Acc x) {
    const auto [below, density] = normal(x);
    return {x * below, below + x * density};
  }
};

/// (1 + tanh(z)) / 2 is sigmoid(2 z).
struct GeluTanh {
  static constexpr double kTwoRootTwoOverPi = 1.59576912160573071176, kCubic = 0.044715;

  template <typename Acc>
  REGROUP_INLINE static Acc value(Acc x) {
    const Acc twice_z = Acc(kTwoRootTwoOverPi) * x * (Acc(1) + Acc(kCubic) * x * x);
    return x / (Acc(1) + fast_exp(-twice_z));
  }
  template <typename Acc>
  REGROUP_INLINE static Point<Acc> point(Acc x) {
    const Acc square = Acc(kCubic) * x * x;
    const Acc twice_z = Acc(kTwoRootTwoOverPi) * x * (Acc(1) + square);
    const Acc sigmoid = Acc(1) / (Acc(1) + fast_exp(-twice_z));
    const Acc slope_of_twice_z = Acc(kTwoRootTwoOverPi) * (Acc(1) + Acc(3) * square);
    const Acc gelu = x * sigmoid;
    return {gelu, sigmoid + gelu * (Acc(1) - sigmoid) * slope_of_twice_z};
  }
};

/// NaN stays NaN, so that a step that is not finite is seen.
struct Relu {
  template <typename Acc>
  REGROUP_INLINE static Acc value(Acc x) {
    return x < Acc(0) ? Acc(0) : x;
  }
  template <typename Acc>
  REGROUP_INLINE static Point<Acc> point(Acc x) {
    return {value(x), x <= Acc(0) ? Acc(0) : Acc(1)};
  }
};

// GCC compiles scalar loops for bfloat16, 9 times slower, unless they are marked.
template <typename F, typename T>
REGROUP_INLINE void plain_forward(const T* __restrict x, T* __restrict out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(out, i, F::value(load(x, i)));
}

template <typename F, typename T>
REGROUP_INLINE void gated_forward(const T* __restrict gate, T* __restrict out, int64_t d) {
  const T* __restrict up = gate + d;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) store(out, i, F::value(load(gate, i)) * load(up, i));
}

template <typename F, typename T>
REGROUP_INLINE void plain_backward(const T* __restrict x, T* __restrict grad, T* __restrict grad_x,
                                   int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto [value, slope] = F::point(load(x, i));
    store(grad_x, i, load(grad, i) * slope);
    store(grad, i, value);
  }
}

template <typename F, typename T>
REGROUP_INLINE void gated_backward(const T* __restrict gate, T* __restrict grad,
                                   T* __restrict grad_gate, int64_t d) {
  const T* __restrict up = gate + d;
  T* __restrict grad_up = grad_gate + d;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) {
    const auto [value, slope] = F::point(load(gate, i));
    const auto u = load(up, i), dy = load(grad, i);
    store(grad_gate, i, dy * u * slope);
    store(grad_up, i, dy * value);
    store(grad, i, value * u);
  }
}

/// Rows whose outputs are d wide.
template <typename F, typename T>
REGROUP_INLINE void forward_rows(bool gated, const T* x, T* out, int64_t n_rows, int64_t d) {
  if (!gated) return plain_forward<F>(x, out, n_rows * d);
  for (int64_t row = 0; row < n_rows; ++row) gated_forward<F>(x + row * 2 * d, out + row * d, d);
}

template <typename F, typename T>
REGROUP_INLINE void backward_rows(bool gated, const T* x, T* grad, T* grad_x, int64_t n_rows,
                                  int64_t d) {
  if (!gated) return plain_backward<F>(x, grad, grad_x, n_rows * d);
  for (int64_t row = 0; row < n_rows; ++row) {
    gated_backward<F>(x + row * 2 * d, grad + row * d, grad_x + row * 2 * d, d);
  }
}

#define REGROUP_OF_KIND(activation, rows, ...)                \
  switch ((activation).kind) {                                \
    case Activation::Kind::kSilu:                             \
      return rows<Silu>((activation).gated, __VA_ARGS__);     \
    case Activation::Kind::kGelu:                             \
      return rows<Gelu>((activation).gated, __VA_ARGS__);     \
    case Activation::Kind::kGeluTanh:                         \
      return rows<GeluTanh>((activation).gated, __VA_ARGS__); \
    case Activation::Kind::kRelu:                             \
      return rows<Relu>((activation).gated, __VA_ARGS__);     \
  }
#define DEFINE(T)                                                                              \
  REGROUP_CPU_CLONES void forward(Activation activation, const T* x, T* out, int64_t n_rows,   \
                                  int64_t d){                                                  \
      REGROUP_OF_KIND(activation, forward_rows, x, out, n_rows, d)} REGROUP_CPU_CLONES void    \
  backward(Activation activation, const T* x, T* grad, T* grad_x, int64_t n_rows, int64_t d) { \
    REGROUP_OF_KIND(activation, backward_rows, x, grad, grad_x, n_rows, d)                     \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE
#undef REGROUP_OF_KIND

}  // namespace

torch::Tensor activation(const torch::Tensor& x, const Activation& activation) {
  const int64_t n_rows = x.size(0), width = x.size(-1);
  const int64_t d = activation.gated ? width / 2 : width;
  auto out = torch::empty({n_rows, d}, x.options());
  REGROUP_DISPATCH(x, "activation", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<scalar_t>();
    parallel_rows(n_rows, d, [&](int64_t begin, int64_t end) {
      forward(activation, in + begin * width, y + begin * d, end - begin, d);
    });
  });
  return out;
}

torch::Tensor activation_backward(const torch::Tensor& x, const Activation& activation,
                                  torch::Tensor& grad) {
  const int64_t n_rows = x.size(0), width = x.size(-1), d = grad.size(-1);
  auto grad_x = torch::empty_like(x);
  REGROUP_DISPATCH(x, "activation_backward", [&] {
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* y = grad.mutable_data_ptr<scalar_t>();
    auto* out = grad_x.mutable_data_ptr<scalar_t>();
    parallel_rows(n_rows, d, [&](int64_t begin, int64_t end) {
      backward(activation, in + begin * width, y + begin * d, out + begin * width, end - begin, d);
    });
  });
  return grad_x;
}

}  // namespace regroup::kernels::cpu
