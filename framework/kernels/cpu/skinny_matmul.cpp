#include "framework/kernels/cpu/skinny_matmul.h"

#include <torch/types.h>

#include <cstring>
#include <vector>

#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {
namespace {

constexpr int64_t kMostRows = 16;
constexpr int64_t kWeightRows =
    3;  // with 4 rows of x: 12 sums, 3 weights and 1 input fill 16 vector registers

using Vector = float __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

REGROUP_INLINE Vector load_vector(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
REGROUP_INLINE Vector load_vector(const c10::BFloat16* p) {
  using Half = uint16_t __attribute__((vector_size(16)));
  using Wide = uint32_t __attribute__((vector_size(32)));
  Half half;
  std::memcpy(&half, p, sizeof(half));
  const Wide wide = __builtin_convertvector(half, Wide) << 16;
  Vector v;
  std::memcpy(&v, &wide, sizeof(v));
  return v;
}

/// out[r][c] = sum over k of x[r][k] * w[c][k], for Rows rows of x and kWeightRows of w.
template <int Rows, typename T>
REGROUP_INLINE void dot_block(const float* x, const T* w, int64_t k, float* out,
                              int64_t out_stride) {
  Vector sums[Rows][kWeightRows] = {};
  const int64_t whole = k / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Vector weights[kWeightRows];
    for (int c = 0; c < kWeightRows; ++c) weights[c] = load_vector(w + c * k + i);
    for (int r = 0; r < Rows; ++r) {
      const Vector input = load_vector(x + r * k + i);
      for (int c = 0; c < kWeightRows; ++c) sums[r][c] += input * weights[c];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < kWeightRows; ++c) {
      float sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) sum += sums[r][c][lane];
      for (int64_t i = whole; i < k; ++i) sum += x[r * k + i] * load(w + c * k, i);
      out[r * out_stride + c] = sum;
    }
  }
}

template <typename T>
REGROUP_INLINE void dot_rows(const float* x, const T* w, int64_t m, int64_t k, float* out,
                             int64_t out_stride) {
  int64_t r = 0;
  for (; r + 4 <= m; r += 4) dot_block<4>(x + r * k, w, k, out + r * out_stride, out_stride);
  for (; r < m; ++r) dot_block<1>(x + r * k, w, k, out + r * out_stride, out_stride);
}

template <typename T>
REGROUP_INLINE float dot(const float* x, const T* w, int64_t k) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < k; ++i) sum += x[i] * load(w, i);
  return sum;
}

/// Columns [begin, end) of out: [m, n]. scratch holds kWeightRows widened weight rows where T is
/// not float.
template <typename T>
REGROUP_INLINE void columns_impl(const float* x, const T* weight, float* out, int64_t m, int64_t n,
                                 int64_t k, int64_t begin, int64_t end, float* scratch) {
  int64_t c = begin;
  for (; c + kWeightRows <= end; c += kWeightRows) {
    const T* w = weight + c * k;
    if (sizeof(T) < sizeof(float) && m > 2) {  // widen once, use for every row
      for (int64_t i = 0; i < kWeightRows * k; ++i) scratch[i] = load(w, i);
      dot_rows(x, scratch, m, k, out + c, n);
    } else {
      dot_rows(x, w, m, k, out + c, n);
    }
  }
  for (; c < end; ++c) {
    for (int64_t r = 0; r < m; ++r) out[r * n + c] = dot(x + r * k, weight + c * k, k);
  }
}

#define DEFINE(T)                                                                         \
  REGROUP_CPU_CLONES void columns(const float* x, const T* weight, float* out, int64_t m, \
                                  int64_t n, int64_t k, int64_t begin, int64_t end,       \
                                  float* scratch) {                                       \
    columns_impl(x, weight, out, m, n, k, begin, end, scratch);                           \
  }
DEFINE(float)
DEFINE(c10::BFloat16)
#undef DEFINE

}  // namespace

bool skinny_matmul_serves(const torch::Tensor& x, const torch::Tensor& weight) {
  const auto type = weight.scalar_type();
  return x.is_cpu() && x.size(0) <= kMostRows &&
         (type == torch::kFloat32 || type == torch::kBFloat16) && weight.is_contiguous();
}

torch::Tensor skinny_matmul(const torch::Tensor& x, const torch::Tensor& weight) {
  const int64_t m = x.size(0), k = x.size(1), n = weight.size(0);
  const auto wide = x.to(torch::kFloat32).contiguous();
  require("skinny_matmul: x", wide, {m, k}, wide.options());
  require("skinny_matmul: weight", weight, {n, k}, x.options());
  auto out = torch::empty({m, n}, wide.options());
  const auto* in = wide.const_data_ptr<float>();
  auto* y = out.mutable_data_ptr<float>();
  parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    if (weight.scalar_type() == torch::kFloat32) {
      columns(in, weight.const_data_ptr<float>(), y, m, n, k, begin, end, nullptr);
    } else {
      std::vector<float> scratch(static_cast<size_t>(kWeightRows * k));
      columns(in, weight.const_data_ptr<c10::BFloat16>(), y, m, n, k, begin, end, scratch.data());
    }
  });
  return out.to(x.scalar_type());
}

}  // namespace regroup::kernels::cpu
