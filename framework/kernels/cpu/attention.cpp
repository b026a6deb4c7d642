// Attention without a matrix of all scores (Dao et al. 2022): blocks of scores live in the cache,
// and backward computes them again. A block's rows are keys and its columns queries, those of all
// the heads that share the keys side by side. So every sum over keys is a sum of rows, and what
// belongs to a query is a vector along the columns.
#include <ATen/native/CPUBlas.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/kernel_table.h"
#include "framework/kernels/matmul.h"

namespace regroup::kernels::cpu {
namespace {

using c10::BFloat16;
using torch::Tensor;

constexpr int64_t kMostColumns = 128, kKeysPerBlock = 64;  // 32 KiB of scores
constexpr int64_t kEnoughTasks = 32;  // below that, heads that share keys are separate tasks
constexpr float kHidden = -1e30F;     // the score of a key that a query does not see

// --- Products ---

/// Rows of a right operand that multiply() wants interleaved: bfloat16 instructions take pairs.
template <typename C>
constexpr int64_t kInterleaved = sizeof(C) == 2 ? 2 : 1;
int64_t even(int64_t n) { return n + n % 2; }

/// c = a b, or c += a b. a: [m, k] with rows of a_stride; b: [k, n] from interleave(); c: [m, n]
/// float with rows of c_stride. k is even.
template <typename C>
void multiply(int64_t m, int64_t n, int64_t k, const C* a, int64_t a_stride, const C* b, float* c,
              int64_t c_stride, bool adds) {
  constexpr bool kIsInterleaved = kInterleaved < C >> 1;
  at::native::cpublas::brgemm(m, n, k, a_stride, n, c_stride, adds, a, b, c, kIsInterleaved);
}

/// Rows [k, n] as a right operand; an odd last row gets a partner of zeros.
template <typename T, typename C>
REGROUP_INLINE void interleave_rows(const T* x, int64_t stride, int64_t k, int64_t n, C* out) {
  constexpr int64_t kPair = kInterleaved<C>;
  for (int64_t i = 0; i < k; ++i) {
    C* row = out + i / kPair * kPair * n + i % kPair;
    for (int64_t j = 0; j < n; ++j) store(row, j * kPair, load(x, i * stride + j));
  }
  if (k % 2 == 1) {
    C* row = out + k / kPair * kPair * n + k % kPair;
    for (int64_t j = 0; j < n; ++j) store(row, j * kPair, 0.0F);
  }
}

/// The transpose of rows [n, k] as a right operand [k, n].
template <typename T, typename C>
REGROUP_INLINE void interleave_columns(const T* x, int64_t stride, int64_t n, int64_t k, C* out) {
  constexpr int64_t kPair = kInterleaved<C>;
  for (int64_t i = 0; i < even(k); ++i) {
    C* row = out + i / kPair * kPair * n + i % kPair;
    for (int64_t j = 0; j < n; ++j) store(row, j * kPair, i < k ? load(x, j * stride + i) : 0.0F);
  }
}

/// Rows [m, k] as a left operand, or the columns of rows [k, m]; an odd k gets a column of zeros.
template <typename T, typename C>
REGROUP_INLINE void copy_rows(const T* x, int64_t stride, int64_t m, int64_t k, C* out) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) store(out, i * even(k) + j, load(x, i * stride + j));
    if (k % 2 == 1) store(out, i * even(k) + k, 0.0F);
  }
}
template <typename T, typename C>
REGROUP_INLINE void copy_columns(const T* x, int64_t stride, int64_t k, int64_t m, C* out) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) store(out, i * even(k) + j, load(x, j * stride + i));
    if (k % 2 == 1) store(out, i * even(k) + k, 0.0F);
  }
}

// GCC's target_clones does not support templates. T: in memory, C: what is multiplied.
#define DEFINE(T, C)                                                                         \
  REGROUP_CPU_CLONES void right(const T* x, int64_t stride, int64_t k, int64_t n, C* out) {  \
    interleave_rows(x, stride, k, n, out);                                                   \
  }                                                                                          \
  REGROUP_CPU_CLONES void right_of_columns(const T* x, int64_t stride, int64_t n, int64_t k, \
                                           C* out) {                                         \
    interleave_columns(x, stride, n, k, out);                                                \
  }                                                                                          \
  REGROUP_CPU_CLONES void left(const T* x, int64_t stride, int64_t m, int64_t k, C* out) {   \
    copy_rows(x, stride, m, k, out);                                                         \
  }                                                                                          \
  REGROUP_CPU_CLONES void left_of_columns(const T* x, int64_t stride, int64_t k, int64_t m,  \
                                          C* out) {                                          \
    copy_columns(x, stride, k, m, out);                                                      \
  }
DEFINE(float, float)
DEFINE(BFloat16, BFloat16)
DEFINE(BFloat16, float)
DEFINE(float, BFloat16)
#undef DEFINE

// --- Scores ---

/// A block of scores: keys first_key .. of a sequence, and for each of n_heads heads the queries
/// first_query .. first_query + n_queries - 1. Rows are stride apart.
struct Block {
  int64_t first_key, n_keys, first_query, n_queries, n_heads;
  int64_t columns() const { return n_heads * n_queries; }
};

/// A ScoreRule in numbers. biases: [heads, all keys] of the block's heads, or null.
struct Scoring {
  float scale, soft_cap;  // 0: none
  int64_t window;         // 0: none
  const float* biases;
  int64_t biases_stride;
};

/// Columns of a head's n queries that see a key.
struct Seen {
  int64_t begin, end;
};
REGROUP_INLINE Seen seen_by(const Block& block, const Scoring& rule, int64_t key) {
  const int64_t ahead = key - block.first_query;
  const int64_t n = block.n_queries;
  const int64_t begin = ahead < 0 ? 0 : (ahead > n ? n : ahead);
  if (rule.window == 0 || ahead + rule.window > n) return {begin, n};
  return {begin, ahead + rule.window < 0 ? 0 : ahead + rule.window};
}

/// tanh to some 1e-7 of 1.
REGROUP_INLINE float tanh_of(float x) { return 1.0F - 2.0F / (fast_exp(2.0F * x) + 1.0F); }

/// Products -> scores; kHidden where a query does not see the key.
REGROUP_INLINE void scores_of(float* row, const Block& block, const Scoring& rule, int64_t key) {
  const auto [begin, end] = seen_by(block, rule, key);
  for (int64_t h = 0; h < block.n_heads; ++h) {
    float* x = row + h * block.n_queries;
    const float bias = rule.biases ? rule.biases[h * rule.biases_stride + key] : 0.0F;
    for (int64_t c = 0; c < begin; ++c) x[c] = kHidden;
    if (rule.soft_cap != 0.0F) {
      const float scale = rule.scale / rule.soft_cap;
      for (int64_t c = begin; c < end; ++c) x[c] = rule.soft_cap * tanh_of(x[c] * scale) + bias;
    } else {
      for (int64_t c = begin; c < end; ++c) x[c] = x[c] * rule.scale + bias;
    }
    for (int64_t c = end < begin ? begin : end; c < block.n_queries; ++c) x[c] = kHidden;
  }
}

/// The running softmax of each column over the blocks so far: highest score, sum of exponentials
/// of the differences from it, and the factor by which this block scales what was summed before.
struct Running {
  float *highest, *sum, *factor;
};

/// Products -> exponentials, in place. s: [keys, columns].
REGROUP_CPU_CLONES void exponentials(float* s, int64_t stride, const Block& block,
                                     const Scoring& rule, const Running& running) {
  const int64_t n = block.columns();
  float* __restrict highest = running.highest;
  float* __restrict sum = running.sum;
  float* __restrict factor = running.factor;
  for (int64_t c = 0; c < n; ++c) factor[c] = highest[c];
  for (int64_t i = 0; i < block.n_keys; ++i) {
    float* __restrict x = s + i * stride;
    scores_of(x, block, rule, block.first_key + i);
    for (int64_t c = 0; c < n; ++c) highest[c] = x[c] > highest[c] ? x[c] : highest[c];
  }
  for (int64_t c = 0; c < n; ++c) {
    factor[c] = fast_exp(factor[c] - highest[c]);
    sum[c] *= factor[c];
  }
  for (int64_t i = 0; i < block.n_keys; ++i) {
    float* __restrict x = s + i * stride;
    for (int64_t c = 0; c < n; ++c) {
      x[c] = x[c] == kHidden ? 0.0F : fast_exp(x[c] - highest[c]);
      sum[c] += x[c];
    }
  }
}

/// What backward knows of each column: the log of its softmax's denominator, and its gradient's
/// product with its output.
struct Columns {
  const float *log_sums, *dots;
};

/// s: products -> weights; grad: gradients of weights -> gradients of products. Both in place.
REGROUP_CPU_CLONES void weights_and_gradients(float* s, float* grad, int64_t stride,
                                              const Block& block, const Scoring& rule,
                                              const Columns& columns) {
  const int64_t n = block.columns();
  const float* __restrict log_sums = columns.log_sums;
  const float* __restrict dots = columns.dots;
  for (int64_t i = 0; i < block.n_keys; ++i) {
    const int64_t key = block.first_key + i;
    float* __restrict x = s + i * stride;
    float* __restrict g = grad + i * stride;
    if (rule.soft_cap != 0.0F) {
      const float scale = rule.scale / rule.soft_cap;
      for (int64_t c = 0; c < n; ++c) {
        const float capped = tanh_of(x[c] * scale);
        g[c] = (g[c] - dots[c]) * (1.0F - capped * capped);
      }
    } else {
      for (int64_t c = 0; c < n; ++c) g[c] -= dots[c];
    }
    scores_of(x, block, rule, key);
    for (int64_t c = 0; c < n; ++c) {
      x[c] = x[c] == kHidden ? 0.0F : fast_exp(x[c] - log_sums[c]);
      g[c] *= x[c] * rule.scale;
    }
  }
}

REGROUP_CPU_CLONES void scale_columns(float* x, int64_t stride, int64_t n_rows, const float* factor,
                                      int64_t n) {
  for (int64_t i = 0; i < n_rows; ++i) {
    float* __restrict row = x + i * stride;
    for (int64_t c = 0; c < n; ++c) row[c] *= factor[c];
  }
}

// --- Tasks ---

/// Heads in memory, [B, T, n_head + 2 n_kv_head, head_dim], divided into tasks of neighbouring
/// query heads that share a K/V head. The division depends on the shape alone.
struct Division {
  int64_t batch, positions, n_head, n_kv_head, head_dim;
  int64_t heads_per_task;

  Division(const Tensor& heads, int64_t n_query_heads)
      : batch(heads.size(0)),
        positions(heads.size(1)),
        n_head(n_query_heads),
        n_kv_head((heads.size(2) - n_query_heads) / 2),
        head_dim(heads.size(3)),
        heads_per_task(n_head / n_kv_head) {
    const int64_t group = heads_per_task;
    const auto divides_well = [&] {
      return group % heads_per_task == 0 && batch * n_head / heads_per_task >= kEnoughTasks;
    };
    while (heads_per_task > 1 && !divides_well()) --heads_per_task;
  }

  int64_t n_all_heads() const { return n_head + 2 * n_kv_head; }
  int64_t row() const { return n_all_heads() * head_dim; }
  int64_t tasks_per_sequence() const { return n_head / heads_per_task; }
  int64_t tasks_per_kv_head() const { return n_head / n_kv_head / heads_per_task; }
  int64_t n_tasks() const { return batch * tasks_per_sequence(); }
  int64_t queries_per_block() const {
    return std::min(positions, std::max<int64_t>(1, kMostColumns / heads_per_task));
  }
};

/// Where one task's heads begin in a tensor of that shape.
struct Task {
  int64_t sequence, first_head, kv_head;
  int64_t query, key, value;  // offsets of position 0
  Task(const Division& shape, int64_t index)
      : sequence(index / shape.tasks_per_sequence()),
        first_head(index % shape.tasks_per_sequence() * shape.heads_per_task),
        kv_head(first_head / (shape.n_head / shape.n_kv_head)) {
    const int64_t begin = sequence * shape.positions * shape.row();
    query = begin + first_head * shape.head_dim;
    key = begin + (shape.n_head + kv_head) * shape.head_dim;
    value = key + shape.n_kv_head * shape.head_dim;
  }
};

Tensor biases_of(const ScoreRule& rule, const Division& shape) {
  if (!rule.alibi) return {};
  return rule.alibi->of_keys(shape.n_head, shape.positions).to(torch::kFloat32).contiguous();
}

Scoring scoring_of(const ScoreRule& rule, const Tensor& biases, const Division& shape,
                   const Task& task) {
  const float* of_heads = biases.defined()
                              ? biases.const_data_ptr<float>() + task.first_head * shape.positions
                              : nullptr;
  return {static_cast<float>(rule.scale), static_cast<float>(rule.soft_cap.value_or(0)),
          rule.window.value_or(0), of_heads, shape.positions};
}

template <typename C>
std::vector<C> scratch(int64_t rows, int64_t columns) {
  return std::vector<C>(static_cast<size_t>(even(rows) * even(columns)));
}

/// The blocks of keys that a block of queries sees, first to last.
template <typename Visit>
void for_each_key_block(Block block, const ScoreRule& rule, const Visit& visit) {
  const int64_t end = block.first_query + block.n_queries;
  const int64_t first = rule.first_key(block.first_query) / kKeysPerBlock * kKeysPerBlock;
  for (int64_t key = first; key < end; key += kKeysPerBlock) {
    block.first_key = key;
    block.n_keys = std::min(kKeysPerBlock, end - key);
    visit(block);
  }
}

template <typename Visit>
void for_each_query_block(const Division& shape, const Visit& visit) {
  const int64_t step = shape.queries_per_block();
  for (int64_t first = 0; first < shape.positions; first += step)
    visit(Block{0, 0, first, std::min(step, shape.positions - first), shape.heads_per_task});
}

/// Calls visit(column, offset) for each query of a block: its column, and its offset in a tensor
/// [T, heads, head_dim] whose rows are row apart, from the task's first head at position 0.
template <typename Visit>
void for_each_query(const Block& block, int64_t row, int64_t head_dim, const Visit& visit) {
  for (int64_t h = 0; h < block.n_heads; ++h) {
    for (int64_t q = 0; q < block.n_queries; ++q)
      visit(h * block.n_queries + q, (block.first_query + q) * row + h * head_dim);
  }
}

/// Forward of tasks. T: in memory; C: what is multiplied.
template <typename T, typename C>
class Forward {
 public:
  Forward(const Division& shape, const ScoreRule& rule)
      : shape_(shape),
        rule_(rule),
        keys_(scratch<C>(shape.positions, shape.head_dim)),
        values_(scratch<C>(shape.head_dim, shape.positions)),
        queries_(scratch<C>(shape.head_dim, columns())),
        scores_(scratch<float>(kKeysPerBlock, columns())),
        weights_(scratch<C>(kKeysPerBlock, columns())),
        sums_(scratch<float>(shape.head_dim, columns())),
        rows_(scratch<T>(columns(), shape.head_dim)),
        highest_(static_cast<size_t>(columns())),
        totals_(highest_.size()),
        factors_(highest_.size()) {}

  /// y: [T, n_head, head_dim] from the task's first head; log_sums: [heads, T].
  void run(const T* heads, const Task& task, const Scoring& scoring, T* y, float* log_sums) {
    const int64_t d = shape_.head_dim, n = shape_.positions, row = shape_.row();
    left(heads + task.key, row, n, d, keys_.data());
    left_of_columns(heads + task.value, row, n, d, values_.data());
    for_each_query_block(shape_, [&](const Block& queries) {
      const int64_t columns = queries.columns();
      for_each_query(queries, row, d, [&](int64_t column, int64_t offset) {
        std::copy_n(heads + task.query + offset, d, rows_.data() + column * d);
      });
      right_of_columns(rows_.data(), d, columns, d, queries_.data());
      std::fill_n(highest_.begin(), columns, kHidden);
      std::fill_n(totals_.begin(), columns, 0.0F);
      std::fill_n(sums_.begin(), d * columns, 0.0F);
      for_each_key_block(queries, rule_, [&](const Block& block) { add(block, scoring); });
      finish(queries, y, log_sums);
    });
  }

 private:
  int64_t columns() const { return shape_.heads_per_task * shape_.queries_per_block(); }

  void add(const Block& block, const Scoring& scoring) {
    const int64_t d = shape_.head_dim, columns = block.columns();
    multiply(block.n_keys, columns, even(d), keys_.data() + block.first_key * even(d), even(d),
             queries_.data(), scores_.data(), columns, /*adds=*/false);
    exponentials(scores_.data(), columns, block, scoring,
                 {highest_.data(), totals_.data(), factors_.data()});
    scale_columns(sums_.data(), columns, d, factors_.data(), columns);
    right(scores_.data(), columns, block.n_keys, columns, weights_.data());
    multiply(d, columns, even(block.n_keys), values_.data() + block.first_key,
             even(shape_.positions), weights_.data(), sums_.data(), columns, /*adds=*/true);
  }

  void finish(const Block& queries, T* y, float* log_sums) {
    const int64_t d = shape_.head_dim, columns = queries.columns();
    for (size_t c = 0; c < static_cast<size_t>(columns); ++c) factors_[c] = 1.0F / totals_[c];
    scale_columns(sums_.data(), columns, d, factors_.data(), columns);
    for_each_query(queries, shape_.n_head * d, d, [&](int64_t column, int64_t offset) {
      for (int64_t i = 0; i < d; ++i)
        store(y, offset + i, sums_[static_cast<size_t>(i * columns + column)]);
    });
    for_each_query(queries, 1, shape_.positions, [&](int64_t column, int64_t offset) {
      const auto c = static_cast<size_t>(column);
      log_sums[offset] = highest_[c] + std::log(totals_[c]);
    });
  }

  const Division& shape_;
  const ScoreRule& rule_;
  std::vector<C> keys_, values_;  // left operands: [T, d], [d, T]
  std::vector<C> queries_;        // right operand: [d, columns]
  std::vector<float> scores_;     // [keys, columns]
  std::vector<C> weights_;        // right operand: [keys, columns]
  std::vector<float> sums_;       // of weighted values: [d, columns]
  std::vector<T> rows_;           // [columns, d]
  std::vector<float> highest_, totals_, factors_;
};

/// Backward of tasks.
template <typename T, typename C>
class Backward {
 public:
  Backward(const Division& shape, const ScoreRule& rule)
      : shape_(shape),
        rule_(rule),
        keys_(scratch<C>(shape.positions, shape.head_dim)),
        values_(scratch<C>(shape.positions, shape.head_dim)),
        keys_by_dim_(scratch<C>(shape.head_dim, shape.positions)),
        queries_by_dim_(scratch<C>(shape.head_dim, columns())),
        grads_by_dim_(scratch<C>(shape.head_dim, columns())),
        queries_(scratch<C>(columns(), shape.head_dim)),
        grads_(scratch<C>(columns(), shape.head_dim)),
        scores_(scratch<float>(kKeysPerBlock, columns())),
        score_grads_(scratch<float>(kKeysPerBlock, columns())),
        weights_(scratch<C>(kKeysPerBlock, columns())),
        query_grads_(scratch<float>(shape.head_dim, columns())),
        rows_(scratch<T>(columns(), shape.head_dim)),
        log_sums_(static_cast<size_t>(columns())),
        dots_(log_sums_.size()) {}

  struct Given {
    const T* heads;
    const T *y, *grad_y;    // [T, n_head, head_dim] from the task's first head
    const float* log_sums;  // [heads, T]
  };
  /// grad_queries: [T, row] from the task's first head. key_grads, value_grads: the task's part of
  /// its K/V head's gradients, [T, head_dim].
  void run(const Given& given, const Task& task, const Scoring& scoring, T* grad_queries,
           float* key_grads, float* value_grads) {
    const int64_t d = shape_.head_dim, n = shape_.positions, row = shape_.row();
    left(given.heads + task.key, row, n, d, keys_.data());
    left(given.heads + task.value, row, n, d, values_.data());
    left_of_columns(given.heads + task.key, row, n, d, keys_by_dim_.data());
    std::fill_n(key_grads, n * d, 0.0F);
    std::fill_n(value_grads, n * d, 0.0F);
    for_each_query_block(shape_, [&](const Block& queries) {
      load_queries(given, task, queries);
      std::fill_n(query_grads_.begin(), d * queries.columns(), 0.0F);
      for_each_key_block(queries, rule_, [&](const Block& block) {
        add(block, scoring, key_grads + block.first_key * d, value_grads + block.first_key * d);
      });
      for_each_query(queries, row, d, [&](int64_t column, int64_t offset) {
        for (int64_t i = 0; i < d; ++i)
          store(grad_queries, offset + i,
                query_grads_[static_cast<size_t>(i * queries.columns() + column)]);
      });
    });
  }

 private:
  int64_t columns() const { return shape_.heads_per_task * shape_.queries_per_block(); }

  void load_queries(const Given& given, const Task& task, const Block& queries) {
    const int64_t d = shape_.head_dim, columns = queries.columns();
    for_each_query(queries, shape_.row(), d, [&](int64_t column, int64_t offset) {
      std::copy_n(given.heads + task.query + offset, d, rows_.data() + column * d);
    });
    right_of_columns(rows_.data(), d, columns, d, queries_by_dim_.data());
    right(rows_.data(), d, columns, d, queries_.data());
    for_each_query(queries, shape_.n_head * d, d, [&](int64_t column, int64_t offset) {
      std::copy_n(given.grad_y + offset, d, rows_.data() + column * d);
      float dot = 0;
      for (int64_t i = 0; i < d; ++i)
        dot += load(given.y, offset + i) * load(given.grad_y, offset + i);
      dots_[static_cast<size_t>(column)] = dot;
    });
    right_of_columns(rows_.data(), d, columns, d, grads_by_dim_.data());
    right(rows_.data(), d, columns, d, grads_.data());
    for_each_query(queries, 1, shape_.positions, [&](int64_t column, int64_t offset) {
      log_sums_[static_cast<size_t>(column)] = given.log_sums[offset];
    });
  }

  void add(const Block& block, const Scoring& scoring, float* key_grads, float* value_grads) {
    const int64_t d = shape_.head_dim, columns = block.columns(), key = block.first_key;
    multiply(block.n_keys, columns, even(d), keys_.data() + key * even(d), even(d),
             queries_by_dim_.data(), scores_.data(), columns, /*adds=*/false);
    multiply(block.n_keys, columns, even(d), values_.data() + key * even(d), even(d),
             grads_by_dim_.data(), score_grads_.data(), columns, /*adds=*/false);
    weights_and_gradients(scores_.data(), score_grads_.data(), columns, block, scoring,
                          {log_sums_.data(), dots_.data()});
    left(scores_.data(), columns, block.n_keys, columns, weights_.data());
    multiply(block.n_keys, d, even(columns), weights_.data(), even(columns), grads_.data(),
             value_grads, d, /*adds=*/true);
    left(score_grads_.data(), columns, block.n_keys, columns, weights_.data());
    multiply(block.n_keys, d, even(columns), weights_.data(), even(columns), queries_.data(),
             key_grads, d, /*adds=*/true);
    right(score_grads_.data(), columns, block.n_keys, columns, weights_.data());
    multiply(d, columns, even(block.n_keys), keys_by_dim_.data() + key, even(shape_.positions),
             weights_.data(), query_grads_.data(), columns, /*adds=*/true);
  }

  const Division& shape_;
  const ScoreRule& rule_;
  std::vector<C> keys_, values_, keys_by_dim_;    // left operands: [T, d], [T, d], [d, T]
  std::vector<C> queries_by_dim_, grads_by_dim_;  // right operands: [d, columns]
  std::vector<C> queries_, grads_;                // right operands: [columns, d]
  std::vector<float> scores_, score_grads_;       // [keys, columns]
  std::vector<C> weights_;                        // an operand made of either
  std::vector<float> query_grads_;                // [d, columns]
  std::vector<T> rows_;                           // [columns, d]
  std::vector<float> log_sums_, dots_;
};

/// Adds n_rows rows of d to the first of them and stores their sum.
#define DEFINE(T)                                                                                  \
  REGROUP_CPU_CLONES void store_sum(float* x, int64_t stride, int64_t n_rows, int64_t d, T* out) { \
    for (int64_t i = 1; i < n_rows; ++i) {                                                         \
      for (int64_t j = 0; j < d; ++j) x[j] += x[i * stride + j];                                   \
    }                                                                                              \
    for (int64_t j = 0; j < d; ++j) store(out, j, x[j]);                                           \
  }
DEFINE(float)
DEFINE(BFloat16)
#undef DEFINE

/// Sums the tasks of each K/V head, [tasks, 2, T, head_dim], into the gradients of keys and values.
template <typename T>
void sum_tasks(const Division& shape, const Tensor& partial, T* grad_heads) {
  const int64_t d = shape.head_dim, n_tasks = shape.tasks_per_kv_head();
  const int64_t of_task = 2 * shape.positions * d;
  auto* sums = partial.mutable_data_ptr<float>();
  at::parallel_for(0, shape.batch * shape.n_kv_head, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task first(shape, i * n_tasks);
      float* of_head = sums + i * n_tasks * of_task;
      for (int64_t t = 0; t < shape.positions; ++t) {
        T* key = grad_heads + first.key + t * shape.row();
        T* value = grad_heads + first.value + t * shape.row();
        store_sum(of_head + t * d, of_task, n_tasks, d, key);
        store_sum(of_head + (shape.positions + t) * d, of_task, n_tasks, d, value);
      }
    }
  });
}

/// Calls run(T, C) with values of the type in memory and the type that is multiplied.
template <typename Run>
void with_formats(const Tensor& x, const Run& run) {
  if (x.scalar_type() == torch::kFloat32) return run(float(), float());
  if (multiplies_widened(x)) return run(BFloat16(), float());
  run(BFloat16(), BFloat16());
}

}  // namespace

Attention attention(const Tensor& heads, int64_t n_head, const ScoreRule& rule) {
  if (heads.scalar_type() == torch::kFloat64)
    return formulas::table().attention(heads, n_head, rule);
  const Division shape(heads, n_head);
  const int64_t n = shape.positions, d = shape.head_dim;
  const auto outputs = torch::empty({shape.batch, n, n_head * d}, heads.options());
  const auto log_sums =
      torch::empty({shape.batch, n_head, n}, heads.options().dtype(torch::kFloat32));
  const auto biases = biases_of(rule, shape);
  with_formats(heads, [&](auto in_memory, auto multiplied) {
    using T = decltype(in_memory);
    using C = decltype(multiplied);
    const auto* x = heads.const_data_ptr<T>();
    auto* y = outputs.mutable_data_ptr<T>();
    auto* sums = log_sums.mutable_data_ptr<float>();
    at::parallel_for(0, shape.n_tasks(), 1, [&](int64_t begin, int64_t end) {
      Forward<T, C> forward(shape, rule);
      for (int64_t i = begin; i < end; ++i) {
        const Task task(shape, i);
        const int64_t head = task.sequence * n_head + task.first_head;
        forward.run(x, task, scoring_of(rule, biases, shape, task),
                    y + (task.sequence * n * n_head + task.first_head) * d, sums + head * n);
      }
      at::native::cpublas::brgemm_release(kInterleaved<C> > 1);
    });
  });
  return {outputs, log_sums};
}

Tensor attention_backward(const Tensor& heads, int64_t n_head, const ScoreRule& rule,
                          const Attention& forward, const Tensor& grad_outputs) {
  if (heads.scalar_type() == torch::kFloat64)
    return formulas::table().attention_backward(heads, n_head, rule, forward, grad_outputs);
  const Division shape(heads, n_head);
  const int64_t n = shape.positions, d = shape.head_dim;
  const auto grad_heads = torch::empty_like(heads);
  const auto partial =
      torch::empty({shape.n_tasks(), 2, n, d}, heads.options().dtype(torch::kFloat32));
  const auto biases = biases_of(rule, shape);
  with_formats(heads, [&](auto in_memory, auto multiplied) {
    using T = decltype(in_memory);
    using C = decltype(multiplied);
    const auto* x = heads.const_data_ptr<T>();
    const auto* y = forward.outputs.const_data_ptr<T>();
    const auto* grad_y = grad_outputs.const_data_ptr<T>();
    const auto* sums = forward.log_sums.const_data_ptr<float>();
    auto* grad = grad_heads.mutable_data_ptr<T>();
    auto* of_tasks = partial.mutable_data_ptr<float>();
    at::parallel_for(0, shape.n_tasks(), 1, [&](int64_t begin, int64_t end) {
      Backward<T, C> backward(shape, rule);
      for (int64_t i = begin; i < end; ++i) {
        const Task task(shape, i);
        const int64_t head = task.sequence * n_head + task.first_head;
        const int64_t output = (task.sequence * n * n_head + task.first_head) * d;
        auto* key_grads = of_tasks + 2 * i * n * d;
        backward.run({x, y + output, grad_y + output, sums + head * n}, task,
                     scoring_of(rule, biases, shape, task), grad + task.query, key_grads,
                     key_grads + n * d);
      }
      at::native::cpublas::brgemm_release(kInterleaved<C> > 1);
    });
    sum_tasks(shape, partial, grad);
  });
  return grad_heads;
}

}  // namespace regroup::kernels::cpu
