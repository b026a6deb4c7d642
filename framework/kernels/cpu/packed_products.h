// framework/kernels/cpu/packed_products.h: oneDNN's products of blocks, and the layouts that their
// operands are packed into. T is the type in memory, C the type that is multiplied.
#pragma once

#include <ATen/native/CPUBlas.h>
#include <torch/types.h>

#include <cstdint>
#include <exception>
#include <new>
#include <vector>

#include "framework/kernels/bfloat16.h"

namespace regroup::kernels::cpu {

/// Operands and products are filled up with zeros to multiples of 16: oneDNN compiles a kernel for
/// each shape that it meets, and any length of a sequence must not bring new ones.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

/// True where right operands have their rows interleaved by twos, as bfloat16 instructions want.
template <typename C>
constexpr bool kInterleaves = sizeof(C) == 2;

/// c = a b, or c += a b. a: [m, k] by left(), with rows of a_stride; b: [k, n] by right(); c: [m,
/// n] float. k and n are padded.
template <typename C>
void multiply(int64_t m, int64_t n, int64_t k, const C* a, int64_t a_stride, const C* b, float* c,
              bool adds) {
  at::native::cpublas::brgemm(m, n, k, a_stride, n, n, adds, a, b, c, kInterleaves<C>);
}
/// After a thread's last product.
template <typename C>
void end_products() {
  at::native::cpublas::brgemm_release(kInterleaves<C>);
}

/// True where oneDNN has products of this type: on x86-64 of float; of bfloat16 if the processor
/// multiplies it, unless ONEDNN_MAX_CPU_ISA forbids that.
template <typename C>
bool has_products() {
  static const bool has = [] {
    try {
      const std::vector<C> operand(16 * 16);
      std::vector<float> product(16 * 16);
      multiply<C>(16, 16, 16, operand.data(), 16, operand.data(), product.data(), /*adds=*/false);
      end_products<C>();
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }();
  return has;
}

/// True for tensors whose scores these blocks compute: float32 and bfloat16.
inline bool has_blocks(const torch::Tensor& x) {
  return x.scalar_type() != torch::kFloat64 && has_products<float>();
}

/// Calls run(T(), C()) for such a tensor.
template <typename Run>
void with_formats(const torch::Tensor& x, const Run& run) {
  if (x.scalar_type() == torch::kFloat32) return run(float(), float());
  if (multiplies_widened(x) || !has_products<c10::BFloat16>()) return run(c10::BFloat16(), float());
  run(c10::BFloat16(), c10::BFloat16());
}

#define REGROUP_DECLARE_OPERANDS(T, C)                                                 \
  /* Rows [m, k] as a left operand: [m, padded(k)]. */                                 \
  void left(const T* x, int64_t stride, int64_t m, int64_t k, C* out);                 \
  /* The transpose of rows [k, m] as a left operand; its rows are out_stride apart. */ \
  void left_of_columns(const T* x, int64_t stride, int64_t k, int64_t m, C* out,       \
                       int64_t out_stride);                                            \
  /* Rows [k, n] as a right operand: [padded(k), padded(n)]. */                        \
  void right(const T* x, int64_t stride, int64_t k, int64_t n, C* out);                \
  /* The transpose of rows [n, k] as a right operand. */                               \
  void right_of_columns(const T* x, int64_t stride, int64_t n, int64_t k, C* out);
REGROUP_DECLARE_OPERANDS(float, float)
REGROUP_DECLARE_OPERANDS(float, c10::BFloat16)
REGROUP_DECLARE_OPERANDS(c10::BFloat16, float)
REGROUP_DECLARE_OPERANDS(c10::BFloat16, c10::BFloat16)
#undef REGROUP_DECLARE_OPERANDS

/// Allocates at the begin of a cache line, because what tiles load across two lines takes twice as
/// long, and leaves numbers uninitialised unless a value is given.
template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* x, size_t) { ::operator delete(x, kLine); }
  void construct(T* x) { ::new (static_cast<void*>(x)) T; }
  void construct(T* x, T value) { ::new (static_cast<void*>(x)) T(value); }
  bool operator==(const CacheLineAllocator&) const = default;
};
template <typename T>
using Scratch = std::vector<T, CacheLineAllocator<T>>;

/// Zeros for an operand or a result of at most this size.
template <typename C>
Scratch<C> scratch(int64_t rows, int64_t columns) {
  return Scratch<C>(static_cast<size_t>(padded(rows) * padded(columns)), C(0));
}

}  // namespace regroup::kernels::cpu
