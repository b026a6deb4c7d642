// framework/kernels/cpu/lanes.h: products of a vector with many rows, eight numbers at a time. A
// sum over a row's dims is a sum across lanes, which is slow for one row: here eight rows share it.
// Compilers do not find that by themselves. Wider vectors would not fit AVX2's sixteen registers.
#pragma once

#include <bit>
#include <cstring>
#include <vector>

#include "framework/kernels/cpu/loops.h"

namespace regroup::kernels::cpu {

constexpr int64_t kLanes = 8;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using LaneBits = uint32_t __attribute__((vector_size(sizeof(Lanes))));

REGROUP_INLINE Lanes load_lanes(const float* x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof(lanes));
  return lanes;
}
REGROUP_INLINE Lanes load_lanes(const c10::BFloat16* x) {
  using LaneHalves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  LaneHalves halves;
  std::memcpy(&halves, x, sizeof(halves));
  return std::bit_cast<Lanes>(__builtin_convertvector(halves, LaneBits) << 16);
}
REGROUP_INLINE void store_lanes(float* x, Lanes lanes) { std::memcpy(x, &lanes, sizeof(lanes)); }

/// Sums of the halves of four vectors: lanes 0 to 3 are those of the first halves of a, b, c and d.
REGROUP_INLINE Lanes sums_of_halves(Lanes a, Lanes b, Lanes c, Lanes d) {
  const Lanes ab = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
                   __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  const Lanes cd = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13) +
                   __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
  return __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
         __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
}

/// The sums of eight vectors: lane i is that of x[i].
REGROUP_INLINE Lanes sums_of(const Lanes* x) {
  const Lanes low = sums_of_halves(x[0], x[1], x[2], x[3]);
  const Lanes high = sums_of_halves(x[4], x[5], x[6], x[7]);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

/// Two times eight numbers of a row, in the order of arranged().
struct TwoLanes {
  Lanes first, second;
};
REGROUP_INLINE TwoLanes load_two_lanes(const float* x) {
  return {load_lanes(x), load_lanes(x + kLanes)};
}
/// Two bfloat16 are a word, of which each half becomes a float by one instruction.
REGROUP_INLINE TwoLanes load_two_lanes(const c10::BFloat16* x) {
  LaneBits words;
  std::memcpy(&words, x, sizeof(words));
  return {std::bit_cast<Lanes>(words << 16), std::bit_cast<Lanes>(words & 0xffff0000U)};
}

/// n vectors x [n, d] as products() with rows of T wants them: of every 16 numbers for bfloat16
/// rows, the even ones before the odd ones.
template <typename T>
std::vector<float> arranged(const float* x, int64_t n, int64_t d) {
  std::vector<float> result(x, x + n * d);
  if (sizeof(T) == sizeof(float)) return result;
  for (int64_t row = 0; row < n * d; row += d) {
    for (int64_t i = row; i + 2 * kLanes <= row + d; i += 2 * kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) {
        result[static_cast<size_t>(i + j)] = x[i + 2 * j];
        result[static_cast<size_t>(i + kLanes + j)] = x[i + 2 * j + 1];
      }
    }
  }
  return result;
}

/// Tells the processor what is read soon: the ends of rows confuse its own guesses.
REGROUP_INLINE void prefetch_ahead_of(const void* x) {
  constexpr int64_t kBytesAhead = 3072;
  __builtin_prefetch(static_cast<const char*>(x) + kBytesAhead);
}

/// out[m][k] = x[m] · rows[k] for M vectors x, arranged<T>(), and the eight rows that are stride
/// apart. Row by row, so that memory is read in order.
template <int M, typename T>
REGROUP_INLINE void eight_products(const float* x, const T* rows, int64_t stride, int64_t d,
                                   float* out, int64_t out_stride) {
  const int64_t whole = d / (2 * kLanes) * (2 * kLanes);
  Lanes sums[M][kLanes];
  for (int64_t k = 0; k < kLanes; ++k) {
    const T* row = rows + k * stride;
    TwoLanes both[M] = {};
    for (int64_t i = 0; i < whole; i += 2 * kLanes) {
      prefetch_ahead_of(row + i);
      const auto numbers = load_two_lanes(row + i);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        both[m].first += load_lanes(x + m * d + i) * numbers.first;
        both[m].second += load_lanes(x + m * d + i + kLanes) * numbers.second;
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) sums[m][k] = both[m].first + both[m].second;
  }
  for (int m = 0; m < M; ++m) {
    float* found = out + m * out_stride;
    store_lanes(found, sums_of(sums[m]));
    for (int64_t k = 0; k < kLanes; ++k) {
      for (int64_t i = whole; i < d; ++i) found[k] += x[m * d + i] * load(rows, k * stride + i);
    }
  }
}

/// The same for n_x vectors.
template <typename T>
REGROUP_INLINE void eight_products(const float* x, int64_t n_x, const T* rows, int64_t stride,
                                   int64_t d, float* out, int64_t out_stride) {
  for (; n_x >= 4; n_x -= 4, x += 4 * d, out += 4 * out_stride)
    eight_products<4>(x, rows, stride, d, out, out_stride);
  if (n_x == 3) eight_products<3>(x, rows, stride, d, out, out_stride);
  if (n_x == 2) eight_products<2>(x, rows, stride, d, out, out_stride);
  if (n_x == 1) eight_products<1>(x, rows, stride, d, out, out_stride);
}

/// out[m][s] = x[m] · rows[s] for n_x vectors x, arranged<T>(), and n rows of d.
template <typename T>
REGROUP_INLINE void products(const float* x, int64_t n_x, const T* rows, int64_t n, int64_t d,
                             float* out, int64_t out_stride) {
  for (int64_t s = 0; s < n && n >= kLanes; s += kLanes) {
    const int64_t first = s < n - kLanes ? s : n - kLanes;  // the last eight overlap those before
    eight_products(x, n_x, rows + first * d, d, d, out + first, out_stride);
  }
  for (int64_t s = 0; s < n && n < kLanes; ++s) {
    for (int64_t m = 0; m < n_x; ++m) {
      float same[kLanes];
      eight_products<1>(x + m * d, rows + s * d, /*stride=*/0, d, same, /*out_stride=*/0);
      out[m * out_stride + s] = same[0];
    }
  }
}

/// out += the sum of weights[s] * rows[s], for N times eight dims of n rows of d.
template <int N, typename T>
REGROUP_INLINE void add_weighted_lanes(const float* weights, const T* rows, int64_t n, int64_t d,
                                       float* out) {
  Lanes sums[N];
#pragma GCC unroll 8
  for (int k = 0; k < N; ++k) sums[k] = load_lanes(out + k * kLanes);
  for (int64_t s = 0; s < n; ++s) {
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) sums[k] += weights[s] * load_lanes(rows + s * d + k * kLanes);
  }
#pragma GCC unroll 8
  for (int k = 0; k < N; ++k) store_lanes(out + k * kLanes, sums[k]);
}

/// out += the sum of weights[s] * rows[s] for n rows of d.
template <typename T>
REGROUP_INLINE void add_weighted(const float* weights, const T* rows, int64_t n, int64_t d,
                                 float* out) {
  int64_t i = 0;
  for (; i + 8 * kLanes <= d; i += 8 * kLanes)
    add_weighted_lanes<8>(weights, rows + i, n, d, out + i);
  for (; i + 4 * kLanes <= d; i += 4 * kLanes)
    add_weighted_lanes<4>(weights, rows + i, n, d, out + i);
  for (; i + kLanes <= d; i += kLanes) add_weighted_lanes<1>(weights, rows + i, n, d, out + i);
  for (int64_t s = 0; s < n && i < d; ++s) {
    for (int64_t j = i; j < d; ++j) out[j] += weights[s] * load(rows, s * d + j);
  }
}

}  // namespace regroup::kernels::cpu
