// framework/kernels/cpu/words.h: sixteen words of 32 bits at a time, each a float or two bfloat16,
// and how rows of them become columns. Compilers do not vectorise a transpose by themselves.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "framework/kernels/cpu/loops.h"

namespace regroup::kernels::cpu {

constexpr int64_t kWords = 16;
using Words = uint32_t __attribute__((vector_size(kWords * sizeof(uint32_t))));
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
REGROUP_INLINE Words bfloat16_words(const float* x) {
  const auto bits = load_vector<Words>(x);
  return (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
}
REGROUP_INLINE Halves bfloat16_halves(const float* x) {
  return __builtin_convertvector(bfloat16_words(x), Halves);
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

/// Row i becomes column i. Each step exchanges blocks of half the size.
REGROUP_INLINE void transpose(Words (&x)[kWords]) {
  Words y[kWords];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    y[i] = __builtin_shufflevector(x[i], x[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21,
                                   22, 23);
    y[i + 8] = __builtin_shufflevector(x[i], x[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27,
                                       28, 29, 30, 31);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if ((i & 4) != 0) continue;
    x[i] = __builtin_shufflevector(y[i], y[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25,
                                   26, 27);
    x[i + 4] = __builtin_shufflevector(y[i], y[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15,
                                       28, 29, 30, 31);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if ((i & 2) != 0) continue;
    y[i] = __builtin_shufflevector(x[i], x[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13,
                                   28, 29);
    y[i + 2] = __builtin_shufflevector(x[i], x[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27,
                                       14, 15, 30, 31);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if ((i & 1) != 0) continue;
    x[i] = __builtin_shufflevector(y[i], y[i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12,
                                   28, 14, 30);
    x[i + 1] = __builtin_shufflevector(y[i], y[i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27,
                                       13, 29, 15, 31);
  }
}

}  // namespace regroup::kernels::cpu
