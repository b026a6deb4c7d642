// framework/kernels/cpu/parallel_rows.h: splits rows among threads and selects the number format.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace regroup::kernels::cpu {

/// Calls run(begin, end) over [0, n_rows) so that a task touches at least about 32 K elements.
template <typename Run>
void parallel_rows(int64_t n_rows, int64_t row_elements, const Run& run) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, row_elements));
  at::parallel_for(0, n_rows, grain, run);
}

}  // namespace regroup::kernels::cpu

/// Runs the body with scalar_t set to the tensor's type: float, double or c10::BFloat16.
#define REGROUP_DISPATCH(tensor, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, (tensor).scalar_type(), name, __VA_ARGS__)
/// Repeats a definition for each of those types: GCC's target_clones does not support templates.
#define REGROUP_FOR_EACH_TYPE(DEFINE) DEFINE(float) DEFINE(double) DEFINE(c10::BFloat16)
