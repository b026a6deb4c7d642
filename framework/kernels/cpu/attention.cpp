#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/score_blocks.h"
#include "framework/kernels/kernel_table.h"

namespace regroup::kernels::cpu {
namespace {

using torch::Tensor;

constexpr int64_t kEnoughTasks = 32;  // below that, heads that share keys are separate tasks

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

  int64_t row() const { return (n_head + 2 * n_kv_head) * head_dim; }
  int64_t output_row() const { return n_head * head_dim; }
  int64_t tasks_per_sequence() const { return n_head / heads_per_task; }
  int64_t tasks_per_kv_head() const { return n_head / n_kv_head / heads_per_task; }
  int64_t n_tasks() const { return batch * tasks_per_sequence(); }
  int64_t queries_per_block() const {
    return std::min(positions, std::max<int64_t>(1, kMostColumns / heads_per_task));
  }
  int64_t most_columns() const { return heads_per_task * queries_per_block(); }

  template <typename Visit>
  void for_each_query_block(const Visit& visit) const {
    const int64_t step = queries_per_block();
    for (int64_t first = 0; first < positions; first += step)
      visit(Block{0, 0, first, std::min(step, positions - first), heads_per_task});
  }
};

/// Where one task's heads begin, at position 0.
struct Task {
  int64_t first_head;
  int64_t query, key, value;  // in heads
  int64_t output, log_sum;    // in [B, T, n_head, head_dim] and [B, n_head, T]

  Task(const Division& shape, int64_t index) {
    const int64_t sequence = index / shape.tasks_per_sequence();
    first_head = index % shape.tasks_per_sequence() * shape.heads_per_task;
    const int64_t kv_head = first_head / (shape.n_head / shape.n_kv_head);
    const int64_t begin = sequence * shape.positions * shape.row();
    query = begin + first_head * shape.head_dim;
    key = begin + (shape.n_head + kv_head) * shape.head_dim;
    value = key + shape.n_kv_head * shape.head_dim;
    output = sequence * shape.positions * shape.output_row() + first_head * shape.head_dim;
    log_sum = (sequence * shape.n_head + first_head) * shape.positions;
  }
};

/// Runs tasks on all threads, each with a worker of its own. T: in memory, C: what is multiplied.
template <typename Worker>
void run_tasks(const Division& shape, const ScoreRule& rule, const typename Worker::Data& data) {
  const Scoring scoring(rule, shape.n_head, padded(shape.positions));
  at::parallel_for(0, shape.n_tasks(), 1, [&](int64_t begin, int64_t end) {
    Worker worker(shape, rule);
    for (int64_t i = begin; i < end; ++i) {
      const Task task(shape, i);
      worker.run(data, i, task, scoring.from_head(task.first_head));
    }
    end_products<typename Worker::Multiplied>();
  });
}

/// Copies the rows of a block's columns: column c's is at x + position * row + head * d.
template <typename T>
void gather(const T* x, int64_t row, int64_t d, const Block& block, Scratch<T>& rows) {
  for_each_column(block, [&](int64_t column, int64_t head, int64_t position) {
    std::copy_n(x + position * row + head * d, d, rows.begin() + column * d);
  });
}

/// Rows [T, d] by dim: for each block of keys a left operand [d, kKeysPerBlock].
template <typename T, typename C>
void by_dim(const T* x, int64_t row, int64_t positions, int64_t d, Scratch<C>& out) {
  for (int64_t key = 0; key < positions; key += kKeysPerBlock) {
    left_of_columns(x + key * row, row, std::min(kKeysPerBlock, positions - key), d,
                    out.data() + key * d, kKeysPerBlock);
  }
}
/// Room for that.
template <typename C>
Scratch<C> by_dim_scratch(int64_t positions, int64_t d) {
  return scratch<C>(positions + kKeysPerBlock, d);
}

/// The reverse of gather(), from [d, columns]. rows: room for the columns' rows.
template <typename T>
void scatter(const Scratch<float>& columns, int64_t row, int64_t d, const Block& block, T* x,
             Scratch<T>& rows) {
  left_of_columns(columns.data(), block.stride(), d, block.columns(), rows.data(), padded(d));
  for_each_column(block, [&](int64_t column, int64_t head, int64_t position) {
    std::copy_n(rows.begin() + column * padded(d), d, x + position * row + head * d);
  });
}

template <typename T>
REGROUP_INLINE float sum_of_products(const T* a, const T* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += load(a, i) * load(b, i);
  return sum;
}
#define DEFINE(T)                                                      \
  REGROUP_CPU_CLONES float dot_of(const T* a, const T* b, int64_t n) { \
    return sum_of_products(a, b, n);                                   \
  }
DEFINE(float)
DEFINE(c10::BFloat16)
#undef DEFINE

template <typename T, typename C>
class Forward {
 public:
  using Multiplied = C;
  struct Data {
    const T* heads;
    T* outputs;
    float* log_sums;
  };

  Forward(const Division& shape, const ScoreRule& rule)
      : shape_(shape),
        rule_(rule),
        keys_(scratch<C>(shape.positions, shape.head_dim)),
        values_by_dim_(by_dim_scratch<C>(shape.positions, shape.head_dim)),
        queries_(scratch<C>(shape.head_dim, shape.most_columns())),
        scores_(scratch<float>(kKeysPerBlock, shape.most_columns())),
        weights_(scratch<C>(kKeysPerBlock, shape.most_columns())),
        sums_(scratch<float>(shape.head_dim, shape.most_columns())),
        rows_(scratch<T>(shape.most_columns(), shape.head_dim)),
        running_(shape.most_columns()) {}

  void run(const Data& data, int64_t, const Task& task, const Scoring& scoring) {
    const int64_t d = shape_.head_dim, row = shape_.row();
    left(data.heads + task.key, row, shape_.positions, d, keys_.data());
    by_dim(data.heads + task.value, row, shape_.positions, d, values_by_dim_);
    shape_.for_each_query_block([&](const Block& queries) {
      gather(data.heads + task.query, row, d, queries, rows_);
      right_of_columns(rows_.data(), d, queries.columns(), d, queries_.data());
      running_.begin();
      std::fill(sums_.begin(), sums_.end(), 0.0F);
      for_each_key_block(queries, rule_, 0, shape_.positions,
                         [&](const Block& block) { add(block, scoring); });
      finish(queries, data.outputs + task.output, data.log_sums + task.log_sum);
    });
  }

 private:
  void add(const Block& block, const Scoring& scoring) {
    const int64_t d = shape_.head_dim, stride = block.stride();
    multiply(block.n_keys, stride, padded(d), keys_.data() + block.first_key * padded(d), padded(d),
             queries_.data(), scores_.data(), /*adds=*/false);
    const bool rises = exponentials(scores_.data(), weights_.data(), block, scoring, running_);
    if (rises) scale_columns(sums_.data(), d, running_.factor.data(), stride);
    multiply(d, stride, block.n_keys, values_by_dim_.data() + block.first_key * d, kKeysPerBlock,
             weights_.data(), sums_.data(), /*adds=*/true);
  }

  void finish(const Block& queries, T* outputs, float* log_sums) {
    auto& [highest, sum, factor] = running_;
    for (size_t c = 0; c < static_cast<size_t>(queries.columns()); ++c) factor[c] = 1.0F / sum[c];
    scale_columns(sums_.data(), shape_.head_dim, factor.data(), queries.stride());
    scatter(sums_, shape_.output_row(), shape_.head_dim, queries, outputs, rows_);
    for_each_column(queries, [&](int64_t column, int64_t head, int64_t position) {
      log_sums[head * shape_.positions + position] = running_.log_sum(static_cast<size_t>(column));
    });
  }

  const Division& shape_;
  const ScoreRule& rule_;
  Scratch<C> keys_, values_by_dim_;  // left operands: [T, d], by_dim()
  Scratch<C> queries_;               // right operand: [d, columns]
  Scratch<float> scores_;            // [keys, columns]
  Scratch<C> weights_;               // right operand: [keys, columns]
  Scratch<float> sums_;              // of weighted values: [d, columns]
  Scratch<T> rows_;                  // [columns, d]
  Running running_;
};

template <typename T, typename C>
class Backward {
 public:
  using Multiplied = C;
  struct Data {
    const T *heads, *outputs, *grad_outputs;
    const float* log_sums;
    T* grad_heads;       // of which a task writes its queries'
    float* kv_of_tasks;  // [tasks, 2, padded T, padded d]: a task's part of its keys' and values'
  };

  Backward(const Division& shape, const ScoreRule& rule)
      : shape_(shape),
        rule_(rule),
        keys_(scratch<C>(shape.positions, shape.head_dim)),
        values_(scratch<C>(shape.positions, shape.head_dim)),
        keys_by_dim_(by_dim_scratch<C>(shape.positions, shape.head_dim)),
        queries_by_dim_(scratch<C>(shape.head_dim, shape.most_columns())),
        grads_by_dim_(scratch<C>(shape.head_dim, shape.most_columns())),
        queries_(scratch<C>(shape.most_columns(), shape.head_dim)),
        grads_(scratch<C>(shape.most_columns(), shape.head_dim)),
        scores_(scratch<float>(kKeysPerBlock, shape.most_columns())),
        score_grads_(scratch<float>(kKeysPerBlock, shape.most_columns())),
        weights_(scratch<C>(kKeysPerBlock, shape.most_columns())),
        score_grads_left_(scratch<C>(kKeysPerBlock, shape.most_columns())),
        score_grads_right_(scratch<C>(kKeysPerBlock, shape.most_columns())),
        query_grads_(scratch<float>(shape.head_dim, shape.most_columns())),
        rows_(scratch<T>(shape.most_columns(), shape.head_dim)),
        columns_(shape.most_columns()) {}

  void run(const Data& data, int64_t index, const Task& task, const Scoring& scoring) {
    const int64_t d = shape_.head_dim, row = shape_.row();
    left(data.heads + task.key, row, shape_.positions, d, keys_.data());
    left(data.heads + task.value, row, shape_.positions, d, values_.data());
    by_dim(data.heads + task.key, row, shape_.positions, d, keys_by_dim_);
    const int64_t of_keys = padded(shape_.positions) * padded(d);
    float* key_grads = data.kv_of_tasks + 2 * index * of_keys;
    std::fill_n(key_grads, 2 * of_keys, 0.0F);
    shape_.for_each_query_block([&](const Block& queries) {
      load_queries(data, task, queries);
      std::fill(query_grads_.begin(), query_grads_.end(), 0.0F);
      for_each_key_block(queries, rule_, 0, shape_.positions, [&](const Block& block) {
        add(block, scoring, key_grads, key_grads + of_keys);
      });
      scatter(query_grads_, row, d, queries, data.grad_heads + task.query, rows_);
    });
  }

 private:
  void load_queries(const Data& data, const Task& task, const Block& queries) {
    const int64_t d = shape_.head_dim, columns = queries.columns();
    gather(data.heads + task.query, shape_.row(), d, queries, rows_);
    right_of_columns(rows_.data(), d, columns, d, queries_by_dim_.data());
    right(rows_.data(), d, columns, d, queries_.data());
    gather(data.grad_outputs + task.output, shape_.output_row(), d, queries, rows_);
    right_of_columns(rows_.data(), d, columns, d, grads_by_dim_.data());
    right(rows_.data(), d, columns, d, grads_.data());
    columns_.clear();
    for_each_column(queries, [&](int64_t column, int64_t head, int64_t position) {
      const int64_t offset = task.output + position * shape_.output_row() + head * d;
      columns_.dots[static_cast<size_t>(column)] =
          dot_of(data.outputs + offset, data.grad_outputs + offset, d);
      columns_.log_sums[static_cast<size_t>(column)] =
          data.log_sums[task.log_sum + head * shape_.positions + position];
    });
  }

  void add(const Block& block, const Scoring& scoring, float* key_grads, float* value_grads) {
    const int64_t d = padded(shape_.head_dim), stride = block.stride(), key = block.first_key;
    multiply(block.n_keys, stride, d, keys_.data() + key * d, d, queries_by_dim_.data(),
             scores_.data(), /*adds=*/false);
    multiply(block.n_keys, stride, d, values_.data() + key * d, d, grads_by_dim_.data(),
             score_grads_.data(), /*adds=*/false);
    weights_and_gradients(
        scores_.data(), score_grads_.data(), block, scoring, columns_,
        ScoreOperands<C>{weights_.data(), score_grads_left_.data(), score_grads_right_.data()});
    multiply(block.n_keys, d, stride, weights_.data(), stride, grads_.data(), value_grads + key * d,
             /*adds=*/true);
    multiply(block.n_keys, d, stride, score_grads_left_.data(), stride, queries_.data(),
             key_grads + key * d, /*adds=*/true);
    multiply(shape_.head_dim, stride, block.n_keys, keys_by_dim_.data() + key * shape_.head_dim,
             kKeysPerBlock, score_grads_right_.data(), query_grads_.data(), /*adds=*/true);
  }

  const Division& shape_;
  const ScoreRule& rule_;
  Scratch<C> keys_, values_, keys_by_dim_;    // left operands: [T, d], [T, d], by_dim()
  Scratch<C> queries_by_dim_, grads_by_dim_;  // right operands: [d, columns]
  Scratch<C> queries_, grads_;                // right operands: [columns, d]
  Scratch<float> scores_, score_grads_;       // [keys, columns]
  Scratch<C> weights_, score_grads_left_, score_grads_right_;  // operands made of these
  Scratch<float> query_grads_;                                 // [d, columns]
  Scratch<T> rows_;                                            // [columns, d]
  Columns columns_;
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
DEFINE(c10::BFloat16)
#undef DEFINE

/// Sums Backward::Data::kv_of_tasks over the tasks of each K/V head.
template <typename T>
void sum_tasks(const Division& shape, float* of_tasks, T* grad_heads) {
  const int64_t d = shape.head_dim, n_tasks = shape.tasks_per_kv_head();
  const int64_t of_keys = padded(shape.positions) * padded(d);
  at::parallel_for(0, shape.batch * shape.n_kv_head, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task first(shape, i * n_tasks);
      float* key_grads = of_tasks + 2 * i * n_tasks * of_keys;
      for (int64_t t = 0; t < shape.positions; ++t) {
        T* row = grad_heads + t * shape.row();
        float* x = key_grads + t * padded(d);
        store_sum(x, 2 * of_keys, n_tasks, d, row + first.key);
        store_sum(x + of_keys, 2 * of_keys, n_tasks, d, row + first.value);
      }
    }
  });
}

}  // namespace

Attention attention(const Tensor& heads, int64_t n_head, const ScoreRule& rule) {
  if (!has_blocks(heads)) return formulas::table().attention(heads, n_head, rule);
  const Division shape(heads, n_head);
  const auto outputs =
      torch::empty({shape.batch, shape.positions, shape.output_row()}, heads.options());
  const auto log_sums =
      torch::empty({shape.batch, n_head, shape.positions}, heads.options().dtype(torch::kFloat32));
  with_formats(heads, [&](auto in_memory, auto multiplied) {
    using T = decltype(in_memory);
    run_tasks<Forward<T, decltype(multiplied)>>(
        shape, rule,
        {heads.const_data_ptr<T>(), outputs.mutable_data_ptr<T>(),
         log_sums.mutable_data_ptr<float>()});
  });
  return {outputs, log_sums};
}

Tensor attention_backward(const Tensor& heads, int64_t n_head, const ScoreRule& rule,
                          const Attention& forward, const Tensor& grad_outputs) {
  if (!has_blocks(heads))
    return formulas::table().attention_backward(heads, n_head, rule, forward, grad_outputs);
  const Division shape(heads, n_head);
  const auto grad_heads = torch::empty_like(heads);
  const auto of_tasks =
      torch::empty({shape.n_tasks(), 2, padded(shape.positions), padded(shape.head_dim)},
                   heads.options().dtype(torch::kFloat32));
  with_formats(heads, [&](auto in_memory, auto multiplied) {
    using T = decltype(in_memory);
    run_tasks<Backward<T, decltype(multiplied)>>(
        shape, rule,
        {heads.const_data_ptr<T>(), forward.outputs.const_data_ptr<T>(),
         grad_outputs.const_data_ptr<T>(), forward.log_sums.const_data_ptr<float>(),
         grad_heads.mutable_data_ptr<T>(), of_tasks.mutable_data_ptr<float>()});
    sum_tasks(shape, of_tasks.mutable_data_ptr<float>(), grad_heads.mutable_data_ptr<T>());
  });
  return grad_heads;
}

}  // namespace regroup::kernels::cpu
