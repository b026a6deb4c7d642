#include "framework/kernels/cpu/skinny_matmul.h"

#include <torch/types.h>

#include <algorithm>
#include <vector>

#include "framework/kernels/bfloat16.h"
#include "framework/kernels/cpu/lanes.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/cpu/score_blocks.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {
namespace {

using torch::Tensor;

constexpr int64_t kMostRows = 16;
constexpr int64_t kWeightRows = 64;  // of a block

#define DEFINE(T)                                                                               \
  REGROUP_CPU_CLONES void times_few_rows(const float* x, int64_t m, const T* weight, int64_t n, \
                                         int64_t k, float* out, int64_t out_stride) {           \
    products(x, m, weight, n, k, out, out_stride);                                              \
  }
DEFINE(float)
DEFINE(c10::BFloat16)
#undef DEFINE

/// x: [m, k], few rows -> out: [m, n], by loops.
template <typename T>
void multiply_few_rows(const Tensor& x, const Tensor& weight, float* out) {
  const int64_t m = x.size(0), n = weight.size(0), k = weight.size(1);
  const auto in = arranged<T>(x.const_data_ptr<float>(), m, k);
  const auto* rows = weight.const_data_ptr<T>();
  brief_parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    times_few_rows(in.data(), m, rows + begin * k, end - begin, k, out + begin, n);
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
  brief_parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    auto product = scratch<float>(kWeightRows, m);
    auto widened = std::is_same_v<T, C> ? Scratch<C>() : scratch<C>(kWeightRows, k);
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

/// Up to how many rows loops are faster than products of blocks.
int64_t few_rows(const Tensor& weight) {
  const bool is_bfloat16 = weight.scalar_type() == torch::kBFloat16;
  const bool has_tiles = cpu_multiplies_bfloat16_tiles() && has_products<c10::BFloat16>();
  return is_bfloat16 && has_tiles ? 1 : 4;
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
  if (m <= few_rows(weight)) {
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
