#include "framework/kernels/cpu/skinny_matmul.h"

#include <torch/types.h>

#include <algorithm>
#include <vector>

#include "framework/kernels/cpu/lanes.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/cpu/score_blocks.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {
namespace {

using torch::Tensor;

constexpr int64_t kMostRows = 16;
constexpr int64_t kFewRows = 4;      // up to which loops are faster than blocks
constexpr int64_t kWeightRows = 64;  // of a block

/// out[r][c] = x[r] · weight[c] for Rows rows of x and Columns of the weight.
template <int Rows, int Columns, typename T>
REGROUP_INLINE void multiply_tile(const float* x, const T* weight, int64_t k, float* out,
                                  int64_t out_stride) {
  Lanes sums[Rows][Columns] = {};
  const int64_t whole = k / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Lanes weights[Columns];
    for (int c = 0; c < Columns; ++c) weights[c] = load_lanes(weight + c * k + i);
    for (int r = 0; r < Rows; ++r) {
      const Lanes input = load_lanes(x + r * k + i);
      for (int c = 0; c < Columns; ++c) sums[r][c] += input * weights[c];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      float sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) sum += sums[r][c][lane];
      for (int64_t i = whole; i < k; ++i) sum += x[r * k + i] * load(weight, c * k + i);
      out[r * out_stride + c] = sum;
    }
  }
}

/// With four rows of x and three of the weight, 12 sums, 3 weights and 1 input fill AVX2's 16
/// registers. wide: room for three rows of the weight, which are widened once for all rows of x.
template <int Rows, typename T>
REGROUP_INLINE void multiply_tiles(const float* x, const T* weight, int64_t n, int64_t k,
                                   float* wide, float* out, int64_t out_stride) {
  int64_t c = 0;
  for (; c + 3 <= n; c += 3) {
    if (sizeof(T) == sizeof(float)) {
      multiply_tile<Rows, 3>(x, weight + c * k, k, out + c, out_stride);
    } else {
      for (int64_t i = 0; i < 3 * k; ++i) wide[i] = load(weight, c * k + i);
      multiply_tile<Rows, 3>(x, wide, k, out + c, out_stride);
    }
  }
  for (; c < n; ++c) multiply_tile<Rows, 1>(x, weight + c * k, k, out + c, out_stride);
}

/// One row is arranged<T>(); out's rows are out_stride apart; wide: as above.
#define DEFINE(T)                                                                                  \
  REGROUP_CPU_CLONES void times_few_rows(const float* x, int64_t m, const T* weight, int64_t n,    \
                                         int64_t k, float* wide, float* out, int64_t out_stride) { \
    if (m == 1) products(x, weight, n, k, out);                                                    \
    if (m == 2) multiply_tiles<2>(x, weight, n, k, wide, out, out_stride);                         \
    if (m == 3) multiply_tiles<3>(x, weight, n, k, wide, out, out_stride);                         \
    if (m == 4) multiply_tiles<4>(x, weight, n, k, wide, out, out_stride);                         \
  }
DEFINE(float)
DEFINE(c10::BFloat16)
#undef DEFINE

/// x: [m, k], m at most kFewRows -> out: [m, n], by loops.
template <typename T>
void multiply_few_rows(const Tensor& x, const Tensor& weight, float* out) {
  const int64_t m = x.size(0), n = weight.size(0), k = weight.size(1);
  const auto* in = x.const_data_ptr<float>();
  const auto row = m == 1 ? arranged<T>(in, m, k) : std::vector<float>();
  if (m == 1) in = row.data();
  const auto* rows = weight.const_data_ptr<T>();
  parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    auto wide = scratch<float>(3, k);
    times_few_rows(in, m, rows + begin * k, end - begin, k, wide.data(), out + begin, n);
  });
}

/// x: [m, k] -> out: [m, n], by products of blocks of the weight's rows and x's columns. T: in
/// memory, C: what is multiplied.
template <typename T, typename C>
void multiply_rows(const Tensor& x, const Tensor& weight, float* out) {
  const int64_t m = x.size(0), n = weight.size(0), k = weight.size(1);
  auto columns = scratch<C>(k, m);
  right_of_columns(x.const_data_ptr<float>(), k, m, k, columns.data());
  const auto* rows = weight.const_data_ptr<T>();
  parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    auto product = scratch<float>(kWeightRows, m);
    auto widened = std::is_same_v<T, C> ? std::vector<C>() : scratch<C>(kWeightRows, k);
    for (int64_t first = begin; first < end; first += kWeightRows) {
      const int64_t count = std::min(kWeightRows, end - first);
      const C* block = nullptr;
      if constexpr (std::is_same_v<T, C>) {
        block = rows + first * k;
      } else {
        left(rows + first * k, k, count, k, widened.data());
        block = widened.data();
      }
      multiply(count, padded(m), k, block, std::is_same_v<T, C> ? k : padded(k), columns.data(),
               product.data(), /*adds=*/false);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < count; ++c)
          out[r * n + first + c] = product[static_cast<size_t>(c * padded(m) + r)];
      }
    }
    end_products<C>();
  });
}

}  // namespace

bool skinny_matmul_serves(const Tensor& x, const Tensor& weight) {
  const auto type = weight.scalar_type();
  return x.is_cpu() && x.size(0) <= kMostRows &&
         (type == torch::kFloat32 || type == torch::kBFloat16) && weight.is_contiguous() &&
         has_blocks(weight);
}

Tensor skinny_matmul(const Tensor& x, const Tensor& weight) {
  const int64_t m = x.size(0), k = x.size(1), n = weight.size(0);
  const auto wide = x.to(torch::kFloat32).contiguous();
  require("skinny_matmul: x", wide, {m, k}, wide.options());
  require("skinny_matmul: weight", weight, {n, k}, x.options());
  const auto out = torch::empty({m, n}, wide.options());
  auto* y = out.mutable_data_ptr<float>();
  const bool is_float = weight.scalar_type() == torch::kFloat32;
  if (m <= kFewRows) {
    is_float ? multiply_few_rows<float>(wide, weight, y)
             : multiply_few_rows<c10::BFloat16>(wide, weight, y);
  } else if (is_float) {
    multiply_rows<float, float>(wide, weight, y);
  } else {
    with_formats(weight, [&](auto, auto multiplied) {
      const bool in_pairs = kInterleaves<decltype(multiplied)> && k % 2 == 0;
      in_pairs ? multiply_rows<c10::BFloat16, decltype(multiplied)>(wide, weight, y)
               : multiply_rows<c10::BFloat16, float>(wide, weight, y);
    });
  }
  return out.to(x.scalar_type());
}

}  // namespace regroup::kernels::cpu
