// framework/kernels/cpu/parallel_rows.h: splits rows among threads and selects the number format.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "framework/kernels/cpu/team.h"

namespace regroup::kernels::cpu {

/// Rows of a task, which touches at least about 32 K elements.
inline int64_t grain_of_rows(int64_t row_elements) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, row_elements));
}

/// Calls run(begin, end) over parts of [0, n_rows), for the loops of decoding.
template <typename Run>
void brief_parallel_rows(int64_t n_rows, int64_t row_elements, const Run& run) {
  brief_parallel_for(n_rows, grain_of_rows(row_elements), std::cref(run));
}

/// Calls run(begin, end) over parts of [0, n_rows). Loops that are as short as those of decoding
/// stay with its threads: two kinds that spin would be in each other's way.
template <typename Run>
void parallel_rows(int64_t n_rows, int64_t row_elements, const Run& run) {
  constexpr int64_t kBrief = 256 * 1024;
  if (n_rows * row_elements <= kBrief) return brief_parallel_rows(n_rows, row_elements, run);
  at::parallel_for(0, n_rows, grain_of_rows(row_elements), run);
}

}  // namespace regroup::kernels::cpu

/// Runs the body with scalar_t set to the tensor's type: float, double or c10::BFloat16.
#define REGROUP_DISPATCH(tensor, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, (tensor).scalar_type(), name, __VA_ARGS__)
/// Repeats a definition for each of those types: GCC's target_clones does not support templates.
#define REGROUP_FOR_EACH_TYPE(DEFINE) DEFINE(float) DEFINE(double) DEFINE(c10::BFloat16)
