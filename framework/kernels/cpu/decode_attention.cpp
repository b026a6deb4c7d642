// One task is a part of a K/V head's cache, whose rows are read once for all query heads of the
// group. The parts of a head are joined by their highest scores and sums (as Flash-Decoding does).
#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/lanes.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/kernel_table.h"

namespace regroup::kernels::cpu {
namespace {

using torch::Tensor;

constexpr int64_t kKeysPerStep = 64;  // whose rows and scores stay in the cache
constexpr int64_t kEnoughParts = 64, kFewestKeysPerPart = 256;

/// How the keys that caches [B, n_kv_head, capacity, d] hold are divided. Depends on the shape
/// alone.
struct Parts {
  int64_t batch, n_kv_head, group, positions, past, capacity, d;
  int64_t n_parts, keys_per_part;  // of one K/V head

  Parts(const Tensor& queries, const Tensor& keys, int64_t n_past)
      : batch(queries.size(0)),
        n_kv_head(keys.size(1)),
        group(queries.size(2) / n_kv_head),
        positions(queries.size(1)),
        past(n_past),
        capacity(keys.size(2)),
        d(queries.size(3)) {
    const int64_t most = (n_keys() + kFewestKeysPerPart - 1) / kFewestKeysPerPart;
    n_parts = std::clamp<int64_t>(kEnoughParts / (batch * n_kv_head), 1, most);
    keys_per_part = (n_keys() + n_parts - 1) / n_parts;
  }

  int64_t n_keys() const { return past + positions; }
  int64_t n_head() const { return n_kv_head * group; }
  int64_t columns() const { return group * positions; }
  int64_t n_tasks() const { return batch * n_kv_head * n_parts; }
};

/// What a part found for one query: the highest score, the sum of exponentials of the differences
/// from it, and the values weighted by them.
struct Partial {
  float highest, sum;
};

/// A ScoreRule for one query. biases: of all keys, or null.
struct QueryRule {
  float scale, soft_cap;  // 0: none
  const float* biases;
};

/// scores[0 .. n - 1]: products -> exponentials. -> the factor for what was summed before.
REGROUP_INLINE float exponentials(float* scores, int64_t n, const QueryRule& rule,
                                  int64_t first_key, Partial& partial) {
  for (int64_t s = 0; s < n; ++s) scores[s] *= rule.scale;
  if (rule.soft_cap != 0.0F) {
    for (int64_t s = 0; s < n; ++s)
      scores[s] = rule.soft_cap * std::tanh(scores[s] / rule.soft_cap);
  }
  if (rule.biases != nullptr) {
    for (int64_t s = 0; s < n; ++s) scores[s] += rule.biases[first_key + s];
  }
  const float high = std::max(partial.highest, highest(scores, n));
  const float factor = fast_exp(partial.highest - high);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t s = 0; s < n; ++s) {
    scores[s] = fast_exp(scores[s] - high);
    sum += scores[s];
  }
  partial.highest = high;
  partial.sum = partial.sum * factor + sum;
  return factor;
}

/// Keys that a query sees: [begin, end).
struct KeyRange {
  int64_t begin, end;
};

/// Attention of one query, arranged(), to keys [begin, end), at most kKeysPerStep, on top of what
/// was found in the keys before. weighted: [d].
template <typename T>
REGROUP_INLINE void attend_step(const float* query, const T* keys, const T* values, int64_t d,
                                KeyRange seen, const QueryRule& rule, Partial& partial,
                                float* weighted) {
  const int64_t n = seen.end - seen.begin;
  float scores[kKeysPerStep] = {};
  products(query, 1, keys + seen.begin * d, n, d, scores, n);
  const float factor = exponentials(scores, n, rule, seen.begin, partial);
  if (factor != 1.0F) {
    for (int64_t i = 0; i < d; ++i) weighted[i] *= factor;
  }
  add_weighted(scores, values + seen.begin * d, n, d, weighted);
}

#define DEFINE(T)                                                                               \
  REGROUP_CPU_CLONES void attend(const float* query, const T* keys, const T* values, int64_t d, \
                                 KeyRange seen, const QueryRule& rule, Partial& partial,        \
                                 float* weighted) {                                             \
    attend_step(query, keys, values, d, seen, rule, partial, weighted);                         \
  }
DEFINE(float)
DEFINE(c10::BFloat16)
#undef DEFINE

/// Attends part by part. queries: widened, as decode_attention()'s. partials: [tasks, columns];
/// weighted: [tasks, columns, d].
template <typename T>
void find(const Parts& parts, const Tensor& queries, const T* keys, const T* values,
          const ScoreRule& rule, std::vector<Partial>& partials, float* weighted) {
  const int64_t n_keys = parts.n_keys(), d = parts.d, columns = parts.columns();
  const auto biases =
      rule.alibi ? rule.alibi->of_keys(parts.n_head(), n_keys).to(torch::kFloat32).contiguous()
                 : Tensor();
  const float* bias = biases.defined() ? biases.const_data_ptr<float>() : nullptr;
  const auto rows = arranged<T>(queries.const_data_ptr<float>(), queries.numel() / d, d);
  const int64_t work = std::min(parts.keys_per_part, n_keys) * columns * d;
  brief_parallel_rows(parts.n_tasks(), work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / parts.n_parts;  // K/V heads of all sequences
      const int64_t sequence = head / parts.n_kv_head,
                    first_head = head % parts.n_kv_head * parts.group;
      const int64_t cached = head * parts.capacity * d;
      const int64_t first_key = task % parts.n_parts * parts.keys_per_part;
      const int64_t last_key = std::min(first_key + parts.keys_per_part, n_keys);
      Partial* partial = partials.data() + task * columns;
      float* sums = weighted + task * columns * d;
      std::fill_n(partial, columns, Partial{kNoScore, 0});
      std::fill_n(sums, columns * d, 0.0F);
      for (int64_t key = first_key; key < last_key; key += kKeysPerStep) {
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t of_group = c / parts.positions, position = c % parts.positions;
          const KeyRange seen{std::max(key, rule.first_key(parts.past + position)),
                              std::min({key + kKeysPerStep, last_key, parts.past + position + 1})};
          if (seen.begin >= seen.end) continue;
          const int64_t query_head = first_head + of_group;
          const QueryRule of_query{static_cast<float>(rule.scale),
                                   static_cast<float>(rule.soft_cap.value_or(0)),
                                   bias == nullptr ? nullptr : bias + query_head * n_keys};
          const int64_t row = (sequence * parts.positions + position) * parts.n_head() + query_head;
          attend(rows.data() + row * d, keys + cached, values + cached, d, seen, of_query,
                 partial[c], sums + c * d);
        }
      }
    }
  });
}

/// Joins the parts of each query. outputs: [B, T, n_head, d].
template <typename T>
void join(const Parts& parts, const std::vector<Partial>& partials, const float* weighted,
          T* outputs) {
  const int64_t d = parts.d, columns = parts.columns();
  std::vector<float> sums(static_cast<size_t>(d));
  for (int64_t head = 0; head < parts.batch * parts.n_kv_head; ++head) {
    for (int64_t c = 0; c < columns; ++c) {
      const Partial* partial = partials.data() + head * parts.n_parts * columns + c;
      const float* values = weighted + (head * parts.n_parts * columns + c) * d;
      float high = kNoScore, sum = 0;
      for (int64_t p = 0; p < parts.n_parts; ++p)
        high = std::max(high, partial[p * columns].highest);
      std::fill(sums.begin(), sums.end(), 0.0F);
      for (int64_t p = 0; p < parts.n_parts; ++p) {
        const float factor = std::exp(partial[p * columns].highest - high);
        sum += partial[p * columns].sum * factor;
        for (int64_t j = 0; j < d; ++j)
          sums[static_cast<size_t>(j)] += values[p * columns * d + j] * factor;
      }
      const int64_t sequence = head / parts.n_kv_head, position = c % parts.positions;
      const int64_t query_head = head % parts.n_kv_head * parts.group + c / parts.positions;
      T* out =
          outputs + ((sequence * parts.positions + position) * parts.n_head() + query_head) * d;
      for (int64_t j = 0; j < d; ++j) store(out, j, sums[static_cast<size_t>(j)] / sum);
    }
  }
}

}  // namespace

Tensor decode_attention(const Tensor& queries, const Tensor& keys, const Tensor& values,
                        int64_t past, const ScoreRule& rule) {
  if (queries.scalar_type() == torch::kFloat64)
    return formulas::table().decode_attention(queries, keys, values, past, rule);
  const Parts parts(queries, keys, past);
  const auto wide = queries.to(torch::kFloat32).contiguous();
  std::vector<Partial> partials(static_cast<size_t>(parts.n_tasks() * parts.columns()));
  const auto weighted = torch::empty({parts.n_tasks(), parts.columns(), parts.d}, wide.options());
  const auto outputs =
      torch::empty({parts.batch, parts.positions, parts.n_head() * parts.d}, queries.options());
  const auto run = [&](auto in_memory) {
    using T = decltype(in_memory);
    auto* sums = weighted.mutable_data_ptr<float>();
    find(parts, wide, keys.const_data_ptr<T>(), values.const_data_ptr<T>(), rule, partials, sums);
    join(parts, partials, sums, outputs.mutable_data_ptr<T>());
  };
  if (queries.scalar_type() == torch::kFloat32) {
    run(float());
  } else {
    run(c10::BFloat16());
  }
  return outputs;
}

}  // namespace regroup::kernels::cpu
