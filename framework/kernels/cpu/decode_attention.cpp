
#include <torch/types.h>

#include <cmath>
#include <vector>

#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {
namespace {

/// A ScoreRule for one query. soft_cap: 0 for none; bias: of each key, or null.
template <typename Acc>
struct QueryRule {
  Acc scale, soft_cap;
  const Acc* bias;
};

/// Caps n scores and adds their biases -> the highest.
template <typename Acc>
REGROUP_INLINE Acc adjust(Acc* scores, int64_t n, const QueryRule<Acc>& rule) {
  Acc highest = -std::numeric_limits<Acc>::infinity();
  for (int64_t s = 0; s < n; ++s) {
    if (rule.soft_cap != 0) scores[s] = rule.soft_cap * std::tanh(scores[s] / rule.soft_cap);
    if (rule.bias != nullptr) scores[s] += rule.bias[s];
    highest = std::max(highest, scores[s]);
  }
  return highest;
}

/// softmax(scores of keys query) values for one query over n positions, itself the last. keys,
/// values: [n, head_dim]; scores: scratch of n; out: [head_dim].
template <typename T, typename Acc>
REGROUP_INLINE void attend_impl(const Acc* query, const T* keys, const T* values, int64_t n,
                                int64_t head_dim, const QueryRule<Acc>& rule, Acc* scores,
                                Acc* out) {
  Acc highest = -std::numeric_limits<Acc>::infinity();
  for (int64_t s = 0; s < n; ++s) {
    const T* key = keys + s * head_dim;
    Acc score = 0;
#pragma omp simd reduction(+ : score)
    for (int64_t i = 0; i < head_dim; ++i) score += query[i] * load(key, i);
    scores[s] = score * rule.scale;
    highest = std::max(highest, scores[s]);
  }
  if (rule.soft_cap != 0 || rule.bias != nullptr) highest = adjust(scores, n, rule);
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t s = 0; s < n; ++s) {
    scores[s] = fast_exp(scores[s] - highest);
    sum += scores[s];
  }
  for (int64_t i = 0; i < head_dim; ++i) out[i] = 0;
  for (int64_t s = 0; s < n; ++s) {
    const T* value = values + s * head_dim;
    const Acc weight = scores[s] / sum;
#pragma omp simd
    for (int64_t i = 0; i < head_dim; ++i) out[i] += weight * load(value, i);
  }
}

#define DEFINE(T)                                                                                 \
  REGROUP_CPU_CLONES void attend(                                                                 \
      const AccumulatorOf<T>* query, const T* keys, const T* values, int64_t n, int64_t head_dim, \
      const QueryRule<AccumulatorOf<T>>& rule, AccumulatorOf<T>* scores, AccumulatorOf<T>* out) { \
    attend_impl(query, keys, values, n, head_dim, rule, scores, out);                             \
  }
REGROUP_FOR_EACH_TYPE(DEFINE)
#undef DEFINE

}  // namespace

torch::Tensor decode_attention(const torch::Tensor& queries, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t past, const ScoreRule& rule) {
  const int64_t batch = queries.size(0), positions = queries.size(1);
  const int64_t n_head = queries.size(2), head_dim = queries.size(3);
  const int64_t n_kv_head = keys.size(1), capacity = keys.size(2);
  const int64_t group_size = n_head / n_kv_head;
  const auto wide = widened(queries).contiguous();
  const int64_t n_keys = past + positions;
  const auto biases = rule.alibi
                          ? rule.alibi->of_keys(n_head, n_keys).to(wide.scalar_type()).contiguous()
                          : torch::Tensor();
  const auto out = torch::empty_like(wide);
  REGROUP_DISPATCH(queries, "decode_attention", [&] {
    using Acc = AccumulatorOf<scalar_t>;
    const auto* query = wide.const_data_ptr<Acc>();
    const auto* cached_keys = keys.const_data_ptr<scalar_t>();
    const auto* cached_values = values.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<Acc>();
    const Acc* bias = biases.defined() ? biases.const_data_ptr<Acc>() : nullptr;
    // A task is one query head of one sequence: neighbours read the same keys and values, and MQA
    // at batch 1 still occupies all threads.
    parallel_rows(batch * n_head, positions * past * head_dim, [&](int64_t begin, int64_t end) {
      std::vector<Acc> scores(static_cast<size_t>(past + positions));
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / n_head, head = task % n_head;
        const int64_t cached = (b * n_kv_head + head / group_size) * capacity * head_dim;
        for (int64_t t = 0; t < positions; ++t) {
          const int64_t row = ((b * positions + t) * n_head + head) * head_dim;
          const int64_t first = rule.first_key(past + t);
          const QueryRule<Acc> of_query{static_cast<Acc>(rule.scale),
                                        static_cast<Acc>(rule.soft_cap.value_or(0)),
                                        bias == nullptr ? nullptr : bias + head * n_keys + first};
          attend(query + row, cached_keys + cached + first * head_dim,
                 cached_values + cached + first * head_dim, past + t + 1 - first, head_dim,
                 of_query, scores.data(), y + row);
        }
      }
    });
  });
  return out.to(queries.scalar_type()).flatten(2);
}

}  // namespace regroup::kernels::cpu
