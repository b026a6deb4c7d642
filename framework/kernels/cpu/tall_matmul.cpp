#include "framework/kernels/cpu/tall_matmul.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>

#include "framework/kernels/bfloat16.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/packed_products.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {
namespace {

using torch::Tensor;
using Half = c10::BFloat16;

// A part of the result, at most [kRows, kColumns] in float32, stays in a core's second cache, and
// so do kDepth rows of its columns of b and of kTurned columns of a. Fixed, so that no sum depends
// on the threads.
constexpr int64_t kRows = 512, kColumns = 512, kDepth = 512, kTurned = 64;
constexpr int64_t kTile = 32;  // rows that oneDNN's kernel takes at a time

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

REGROUP_CPU_CLONES void finish(const float* x, int64_t n, Half* out) {
  for (int64_t i = 0; i < n; ++i) store(out, i, x[i]);
}
REGROUP_CPU_CLONES void finish(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] += x[i];
}

/// Computes parts of aᵀ b, one after the other.
class Parts {
 public:
  Parts(const Tensor& a, const Tensor& b)
      : a_(a),
        b_(b),
        turned_(kTurned * kDepth),
        packed_(kDepth * kColumns),
        sums_(kRows * kColumns) {}

  /// Rows [row, row + n_rows) and columns [column, column + n_columns).
  const float* part(int64_t row, int64_t n_rows, int64_t column, int64_t n_columns) {
    const int64_t k = a_.size(0), a_row = a_.stride(0), b_row = b_.stride(0);
    const int64_t width = padded(n_columns);
    for (int64_t first = 0; first < k; first += kDepth) {
      const int64_t depth = std::min(kDepth, k - first);
      right(b_.const_data_ptr<Half>() + first * b_row + column, b_row, depth, n_columns,
            packed_.data());
      for (int64_t i = 0; i < n_rows; i += kTurned) {
        const int64_t n_turned = std::min(kTurned, n_rows - i);
        left_of_columns(a_.const_data_ptr<Half>() + first * a_row + row + i, a_row, depth, n_turned,
                        turned_.data(), kDepth);
        multiply(n_turned, width, padded(depth), turned_.data(), kDepth, packed_.data(),
                 sums_.data() + i * width, /*adds=*/first > 0);
      }
    }
    return sums_.data();
  }

 private:
  const Tensor &a_, &b_;
  Scratch<Half> turned_, packed_;
  Scratch<float> sums_;
};

template <typename Out>
void multiply_into(const Tensor& a, const Tensor& b, Tensor& result) {
  const int64_t m = a.size(1), n = b.size(1);
  require("tall_matmul: result", result, {m, n}, result.options().device(a.device()));
  auto* out = result.mutable_data_ptr<Out>();
  const int64_t n_threads = at::get_num_threads();
  const int64_t parts_per_thread = ceil_div(m, n_threads * kRows);
  const int64_t rows = ceil_div(ceil_div(m, n_threads * parts_per_thread), kTile) * kTile;
  const int64_t n_column_parts = ceil_div(n, kColumns);
  at::parallel_for(0, ceil_div(m, rows) * n_column_parts, 1, [&](int64_t begin, int64_t end) {
    Parts parts(a, b);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / n_column_parts * rows, column = i % n_column_parts * kColumns;
      const int64_t n_rows = std::min(rows, m - row), n_columns = std::min(kColumns, n - column);
      const float* part = parts.part(row, n_rows, column, n_columns);
      for (int64_t r = 0; r < n_rows; ++r, part += padded(n_columns))
        finish(part, n_columns, out + (row + r) * n + column);
    }
    end_products<Half>();
  });
}

}  // namespace

bool tall_matmul_serves(const Tensor& a, const Tensor& b) {
  constexpr int64_t kSmallest = 64;
  const auto serves = [](const Tensor& x) {
    return x.is_cpu() && x.scalar_type() == torch::kBFloat16 && x.stride(1) == 1 &&
           x.size(0) >= kSmallest && x.size(1) >= kSmallest;
  };
  return serves(a) && serves(b) && a.size(0) == b.size(0) && cpu_multiplies_bfloat16_tiles() &&
         has_products<Half>();
}

void tall_matmul(const Tensor& a, const Tensor& b, Tensor& result) {
  multiply_into<Half>(a, b, result);
}

void add_tall_matmul_(const Tensor& a, const Tensor& b, Tensor& sum) {
  multiply_into<float>(a, b, sum);
}

}  // namespace regroup::kernels::cpu
