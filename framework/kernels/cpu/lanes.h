// framework/kernels/cpu/lanes.h: products of a vector with many rows, sixteen numbers at a time. A
// sum over a row's dims is a sum across lanes, which is slow for one row: here sixteen rows share
// it. Compilers do not find that by themselves.
#pragma once

#include <cstring>

#include "framework/kernels/cpu/loops.h"

namespace regroup::kernels::cpu {

constexpr int64_t kLanes = 16;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

REGROUP_INLINE Lanes load_lanes(const float* x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof(lanes));
  return lanes;
}
REGROUP_INLINE Lanes load_lanes(const c10::BFloat16* x) {
  using Halves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  Halves halves;
  std::memcpy(&halves, x, sizeof(halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Lanes lanes;
  std::memcpy(&lanes, &words, sizeof(lanes));
  return lanes;
}
REGROUP_INLINE void store_lanes(float* x, Lanes lanes) { std::memcpy(x, &lanes, sizeof(lanes)); }

/// Sums of four vectors' quarters: lanes 4q .. 4q + 3 are the sums over quarter q of a, b, c and d.
REGROUP_INLINE Lanes sums_of_quarters(Lanes a, Lanes b, Lanes c, Lanes d) {
  const auto pairs = [](Lanes x, Lanes y) {
    return __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
           __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                                   31);
  };
  const Lanes ab = pairs(a, b), cd = pairs(c, d);
  return __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
         __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30,
                                 31);
}

/// The sums of sixteen vectors: lane i is that of x[i].
REGROUP_INLINE Lanes sums_of(const Lanes* x) {
  const auto halves = [](Lanes a, Lanes b) {  // of quarters: a's 0 + 2 and 1 + 3 around b's
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30,
                                   31);
  };
  const Lanes low =
      halves(sums_of_quarters(x[0], x[1], x[2], x[3]), sums_of_quarters(x[4], x[5], x[6], x[7]));
  const Lanes high = halves(sums_of_quarters(x[8], x[9], x[10], x[11]),
                            sums_of_quarters(x[12], x[13], x[14], x[15]));
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22,
                                 23) +
         __builtin_shufflevector(low, high, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29,
                                 30, 31);
}

/// out[s] = x · rows[s] for n rows of d.
template <typename T>
REGROUP_INLINE void products(const float* x, const T* rows, int64_t n, int64_t d, float* out) {
  const int64_t whole = d / kLanes * kLanes;
  int64_t s = 0;
  for (; s + kLanes <= n; s += kLanes) {
    Lanes sums[kLanes] = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      const Lanes xi = load_lanes(x + i);
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k) sums[k] += xi * load_lanes(rows + (s + k) * d + i);
    }
    store_lanes(out + s, sums_of(sums));
    for (int64_t k = s; k < s + kLanes; ++k) {
      for (int64_t i = whole; i < d; ++i) out[k] += x[i] * load(rows, k * d + i);
    }
  }
  for (; s < n; ++s) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; ++i) sum += x[i] * load(rows, s * d + i);
    out[s] = sum;
  }
}

/// out += the sum of weights[s] * rows[s], for N times sixteen dims of n rows of d.
template <int N, typename T>
REGROUP_INLINE void add_weighted_lanes(const float* weights, const T* rows, int64_t n, int64_t d,
                                       float* out) {
  Lanes sums[N];
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) sums[k] = load_lanes(out + k * kLanes);
  for (int64_t s = 0; s < n; ++s) {
#pragma GCC unroll 4
    for (int k = 0; k < N; ++k) sums[k] += weights[s] * load_lanes(rows + s * d + k * kLanes);
  }
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) store_lanes(out + k * kLanes, sums[k]);
}

/// out += the sum of weights[s] * rows[s] for n rows of d.
template <typename T>
REGROUP_INLINE void add_weighted(const float* weights, const T* rows, int64_t n, int64_t d,
                                 float* out) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= d; i += 4 * kLanes)
    add_weighted_lanes<4>(weights, rows + i, n, d, out + i);
  for (; i + kLanes <= d; i += kLanes) add_weighted_lanes<1>(weights, rows + i, n, d, out + i);
  for (int64_t s = 0; s < n && i < d; ++s) {
    for (int64_t j = i; j < d; ++j) out[j] += weights[s] * load(rows, s * d + j);
  }
}

}  // namespace regroup::kernels::cpu
