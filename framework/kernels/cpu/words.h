// framework/kernels/cpu/words.h: sixteen words of 32 bits at a time, each a float or two bfloat16,
// and how rows of them become columns. Compilers do not vectorise a transpose by themselves.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "framework/kernels/cpu/loops.h"

namespace regroup::kernels::cpu {

constexpr int64_t kWords = 16;
using Words = uint32_t __attribute__((vector_size(kWords * sizeof(uint32_t))));
using Floats = float __attribute__((vector_size(kWords * sizeof(float))));
using Halves = uint16_t __attribute__((vector_size(kWords * sizeof(uint16_t))));

template <typename Vector>
REGROUP_INLINE Vector load_vector(const void* x) {
  Vector vector;
  std::memcpy(&vector, x, sizeof(vector));
  return vector;
}
template <typename Vector>
REGROUP_INLINE void store_vector(void* x, const Vector& vector) {
  std::memcpy(x, &vector, sizeof(vector));
}

/// Sixteen numbers as bfloat16 in the lower halves of words, rounded to nearest even. NaN stays NaN
/// if its last 16 bits are zero, as they are in what arithmetic makes of bfloat16 numbers.
REGROUP_INLINE Words bfloat16_words(const c10::BFloat16* x) {
  return __builtin_convertvector(load_vector<Halves>(x), Words);
}
REGROUP_INLINE Words bfloat16_words(const Floats& x) {
  const auto bits = std::bit_cast<Words>(x);
  return (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
}
REGROUP_INLINE Words bfloat16_words(const float* x) {
  return bfloat16_words(load_vector<Floats>(x));
}
REGROUP_INLINE Halves bfloat16_halves(const float* x) {
  return __builtin_convertvector(bfloat16_words(x), Halves);
}

/// As the instruction: b where one is NaN.
REGROUP_INLINE Floats larger(const Floats& a, const Floats& b) { return a > b ? a : b; }

/// 2^y to 3e-7 for y between -126 and 128, 1 for 0, 0 for -127 and below, NaN for NaN.
REGROUP_INLINE Floats exp2_of(const Floats& y) {
  constexpr float kRounds = 12582912.0F;  // 1.5 * 2^23: what is added to it loses its fraction
  const Floats clamped = larger(Floats{} - 127.0F, y);
  const Floats shifted = clamped + kRounds;
  const Floats r = clamped - (shifted - kRounds);
  Floats p = r * 1.32647273e-3F + 9.67151299e-3F;
  p = p * r + 5.55073358e-2F;
  p = p * r + 2.40222424e-1F;
  p = p * r + 6.93147004e-1F;
  p = p * r + 1.0F;
  // The last bits of shifted are the whole part of y, which is added to the exponent of p.
  return std::bit_cast<Floats>(std::bit_cast<Words>(p) + (std::bit_cast<Words>(shifted) << 23));
}

/// As many numbers as fill sixteen words of C.
template <typename C>
constexpr int64_t kPerWords = kWords*(sizeof(float) / sizeof(C));
template <typename C>
REGROUP_INLINE Words words_of(const float* x) {
  if constexpr (sizeof(C) == sizeof(float)) return load_vector<Words>(x);
  const std::array<Halves, 2> halves{bfloat16_halves(x), bfloat16_halves(x + kWords)};
  return load_vector<Words>(&halves);
}
template <typename C>
REGROUP_INLINE Words words_of(const c10::BFloat16* x) {
  if constexpr (sizeof(C) == sizeof(float)) return bfloat16_words(x) << 16;
  return load_vector<Words>(x);
}

/// x itself, or where fewer than `wanted` numbers are there, a copy with zeros behind them.
template <typename T, size_t wanted>
REGROUP_INLINE const T* filled_up(const T* x, int64_t available, std::array<T, wanted>& copy) {
  if (available >= static_cast<int64_t>(wanted)) return x;
  std::memset(static_cast<void*>(copy.data()), 0, sizeof(copy));
  for (int64_t i = 0; i < available; ++i) copy[static_cast<size_t>(i)] = x[i];
  return copy.data();
}

/// Of each block of twice `step` words, exchanges a's second half with b's first.
template <int step, size_t... i>
REGROUP_INLINE void exchange(Words& a, Words& b, std::index_sequence<i...>) {
  constexpr auto kB = static_cast<size_t>(kWords);  // where b's words begin in the indices
  const Words first = __builtin_shufflevector(a, b, ((i & step) == 0 ? i : kB + i - step)...);
  b = __builtin_shufflevector(a, b, ((i & step) == 0 ? i + step : kB + i)...);
  a = first;
}
template <int step>
REGROUP_INLINE void exchange_rows(Words (&x)[kWords]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWords; ++i) {
    if ((i & step) == 0) exchange<step>(x[i], x[i + step], std::make_index_sequence<kWords>());
  }
}

/// Row i becomes column i: the quarters of a square are exchanged, then those of each quarter.
REGROUP_INLINE void transpose(Words (&x)[kWords]) {
  exchange_rows<8>(x);
  exchange_rows<4>(x);
  exchange_rows<2>(x);
  exchange_rows<1>(x);
}

}  // namespace regroup::kernels::cpu
