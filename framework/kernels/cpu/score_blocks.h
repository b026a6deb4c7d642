// framework/kernels/cpu/score_blocks.h: what attention on the CPU is made of: blocks of scores that
// stay in the cache (Dao et al. 2022) between the products that make and use them. A block's rows
// are keys and its columns queries, those of all the heads that share the keys side by side. So
// every sum over keys is a sum of rows, and what belongs to a query is a vector along the columns.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/packed_products.h"
#include "framework/kernels/score_rule.h"

namespace regroup::kernels::cpu {

constexpr int64_t kMostColumns = 128, kKeysPerBlock = 64;  // 32 KiB of scores

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
  REGROUP_INLINE float bias(int64_t head, int64_t key) const {
    return biases == nullptr ? 0 : biases[head * biases_stride + key];
  }

  float scale, soft_cap;  // 0: none
  int64_t window;         // 0: none
  const float* biases;    // of keys, rows of heads; or null
  int64_t biases_stride;

 private:
  torch::Tensor all_biases_;
};

/// The running softmax of each column over the blocks so far, in powers of two: an exponent that no
/// score exceeds by far, the sum of powers of the differences from it, and the factor by which the
/// last block scales what was summed before.
struct Running {
  std::vector<float> highest, sum, factor;
  explicit Running(int64_t columns) : highest(static_cast<size_t>(padded(columns))) {
    sum = factor = highest;
  }
  void begin() {
    std::fill(highest.begin(), highest.end(), kNoScore);
    std::fill(sum.begin(), sum.end(), 0.0F);
  }
  /// The natural logarithm of the sum of e^score.
  float log_sum(size_t column) const;
};
/// s: products of keys and queries, [n_keys, stride], which it changes -> weights: those of the
/// softmax but for its denominator, as a right operand. -> true where what was summed before must
/// be scaled.
bool exponentials(float* s, float* weights, const Block& block, const Scoring& scoring,
                  Running& running);
bool exponentials(float* s, c10::BFloat16* weights, const Block& block, const Scoring& scoring,
                  Running& running);

/// What backward knows of each column: the log of its softmax's denominator, and the product of its
/// output with its output's gradient.
struct Columns {
  std::vector<float> log_sums, dots;
  explicit Columns(int64_t columns) : log_sums(static_cast<size_t>(padded(columns))) {
    dots = log_sums;
  }
  /// Weights of 0 for all columns, as those must have that fill up a block.
  void clear() {
    std::fill(log_sums.begin(), log_sums.end(), -kNoScore);
    std::fill(dots.begin(), dots.end(), 0.0F);
  }
};
/// What backward multiplies of a block: softmax weights, and gradients of products of keys and
/// queries, as left operands [n_keys, stride]; the gradients as a right operand too.
template <typename C>
struct ScoreOperands {
  C *weights, *gradients, *gradients_right;
};
/// s: products of keys and queries; grads: the weights' gradients. Changes both: [n_keys, stride].
void weights_and_gradients(float* s, float* grads, const Block& block, const Scoring& scoring,
                           const Columns& columns, const ScoreOperands<float>& out);
void weights_and_gradients(float* s, float* grads, const Block& block, const Scoring& scoring,
                           const Columns& columns, const ScoreOperands<c10::BFloat16>& out);

/// x[i] *= factors for n_rows rows of n.
void scale_columns(float* x, int64_t n_rows, const float* factors, int64_t n);

}  // namespace regroup::kernels::cpu
