// framework/kernels/cpu/loops.h: instruction set chosen at run time, number formats, and exp for
// the CPU kernels. A kernel is a plain loop that the compiler vectorises once per instruction set.
#pragma once

#include <c10/util/BFloat16.h>

#include <bit>
#include <cstdint>

// One binary runs everywhere: the loader picks the clone that the processor supports. Clang 14 does
// not know such clones, and its sanitizers would start too late for the loader's resolvers.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define REGROUP_CPU_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define REGROUP_CPU_CLONES
#endif
// What a clone calls must be inlined into it, or it would run at the baseline's width.
#define REGROUP_INLINE __attribute__((always_inline)) inline

namespace regroup::kernels::cpu {

/// The type that sums and intermediate values of T are held in.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using AccumulatorOf = typename Accumulator<T>::type;

REGROUP_INLINE float load(const float* p, int64_t i) { return p[i]; }
REGROUP_INLINE double load(const double* p, int64_t i) { return p[i]; }
REGROUP_INLINE float load(const c10::BFloat16* p, int64_t i) {
  return std::bit_cast<float>(static_cast<uint32_t>(p[i].x) << 16);
}

REGROUP_INLINE void store(float* p, int64_t i, float value) { p[i] = value; }
REGROUP_INLINE void store(double* p, int64_t i, double value) { p[i] = value; }
/// Rounds to nearest even; NaN stays NaN, so that a step that is not finite is seen.
REGROUP_INLINE void store(c10::BFloat16* p, int64_t i, float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
  p[i].x = static_cast<uint16_t>(is_nan ? 0x7fc0U : rounded);
}

/// e^x to a few ulp for x clamped to [-87, 88], NaN for NaN; branch free so that it vectorises.
REGROUP_INLINE float fast_exp(float x) {
  constexpr float kRounds = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = clamped * 1.44269504f + kRounds;
  const float n = shifted - kRounds;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // The last bits of shifted are n, which is added to the exponent of p.
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) +
                              (std::bit_cast<uint32_t>(shifted) << 23));
}
REGROUP_INLINE double fast_exp(double x) { return __builtin_exp(x); }

/// The highest of no scores.
constexpr float kNoScore = -1e30F;

/// The largest of n values, n at least 1.
template <typename T>
REGROUP_INLINE auto highest(const T* x, int64_t n) {
  auto high = load(x, 0);
#pragma omp simd reduction(max : high)
  for (int64_t i = 1; i < n; ++i) {
    const auto value = load(x, i);
    high = value > high ? value : high;
  }
  return high;
}

}  // namespace regroup::kernels::cpu
