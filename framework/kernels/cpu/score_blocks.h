// framework/kernels/cpu/score_blocks.h: what attention on the CPU is made of: blocks of scores that
// stay in the cache (Dao et al. 2022), and the products that make and use them. A block's rows are
// keys and its columns queries, those of all the heads that share the keys side by side. So every
// sum over keys is a sum of rows, and what belongs to a query is a vector along the columns.
#pragma once

#include <ATen/native/CPUBlas.h>
#include <torch/types.h>

#include <cstdint>
#include <exception>
#include <vector>

#include "framework/kernels/bfloat16.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/score_rule.h"

namespace regroup::kernels::cpu {

constexpr int64_t kMostColumns = 128, kKeysPerBlock = 64;  // 32 KiB of scores

/// Operands and blocks are filled up with zeros to multiples of 16: oneDNN compiles a kernel for
/// each shape that it meets, and any length of a sequence must not bring new ones.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// --- Products. T is the type in memory, C the type that is multiplied. ---

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

/// Zeros for an operand or a result of at most this size.
template <typename C>
std::vector<C> scratch(int64_t rows, int64_t columns) {
  return std::vector<C>(static_cast<size_t>(padded(rows) * padded(columns)));
}

// --- Scores ---

/// Keys first_key .. of a sequence, n_keys of them (a multiple of 16, those after the last query
/// included), and for each of n_heads heads the queries first_query .. first_query + n_queries - 1.
struct Block {
  int64_t first_key, n_keys, first_query, n_queries, n_heads;
  int64_t columns() const { return n_heads * n_queries; }
  int64_t stride() const { return padded(columns()); }
};

/// Calls visit(column, head, query) for the columns of a block: the heads of a query are
/// neighbours, so those that see a key are neighbours too.
template <typename Visit>
void for_each_column(const Block& block, const Visit& visit) {
  for (int64_t q = 0; q < block.n_queries; ++q) {
    for (int64_t h = 0; h < block.n_heads; ++h)
      visit(q * block.n_heads + h, h, block.first_query + q);
  }
}

/// Calls visit(block) for the blocks of keys in [begin, end) that a block of queries may see, first
/// to last.
template <typename Visit>
void for_each_key_block(Block block, const ScoreRule& rule, int64_t begin, int64_t end,
                        const Visit& visit) {
  const int64_t seen = rule.first_key(block.first_query) / kKeysPerBlock * kKeysPerBlock;
  end = std::min(end, block.first_query + block.n_queries);
  for (int64_t key = std::max(begin, seen); key < end; key += kKeysPerBlock) {
    block.first_key = key;
    block.n_keys = std::min(kKeysPerBlock, padded(end - key));
    visit(block);
  }
}

/// A ScoreRule in numbers.
class Scoring {
 public:
  /// For n_head heads and keys before n_keys.
  Scoring(const ScoreRule& rule, int64_t n_head, int64_t n_keys);
  /// The same for heads that begin at first_head.
  Scoring from_head(int64_t first_head) const;

  float scale, soft_cap;  // 0: none
  int64_t window;         // 0: none
  const float* biases;    // of keys, rows of heads; or null
  int64_t biases_stride;

 private:
  torch::Tensor all_biases_;
};

/// The running softmax of each column over the blocks so far: highest score, sum of exponentials of
/// the differences from it, and the factor by which the last block scales what was summed before.
struct Running {
  std::vector<float> highest, sum, factor;
  explicit Running(int64_t columns) : highest(static_cast<size_t>(padded(columns))) {
    sum = factor = highest;
  }
  void begin() {
    std::fill(highest.begin(), highest.end(), kNoScore);
    std::fill(sum.begin(), sum.end(), 0.0F);
  }
};
/// Products of keys and queries -> exponentials, in place. s: [n_keys, stride].
void exponentials(float* s, const Block& block, const Scoring& scoring, Running& running);

/// What backward knows of each column: the log of its softmax's denominator, and the product of its
/// output with its output's gradient.
struct Columns {
  std::vector<float> log_sums, dots;
  explicit Columns(int64_t columns) : log_sums(static_cast<size_t>(columns)) { dots = log_sums; }
};
/// s: products of keys and queries -> softmax weights; grads: the weights' gradients -> those of
/// the products. Both in place: [n_keys, stride].
void weights_and_gradients(float* s, float* grads, const Block& block, const Scoring& scoring,
                           const Columns& columns);

/// x[i] *= factors for n_rows rows of n.
void scale_columns(float* x, int64_t n_rows, const float* factors, int64_t n);

}  // namespace regroup::kernels::cpu
