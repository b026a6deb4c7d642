#include "framework/kernels/cpu/score_blocks.h"

#include "framework/kernels/cpu/loops.h"

namespace regroup::kernels::cpu {
namespace {

/// Columns that see a key.
struct Seen {
  int64_t begin, end;
};
REGROUP_INLINE Seen seen_by(const Block& block, const Scoring& scoring, int64_t key) {
  const int64_t ahead = key - block.first_query, n = block.n_queries;
  const int64_t begin = ahead < 0 ? 0 : (ahead > n ? n : ahead);
  int64_t end = n;
  if (scoring.window != 0 && ahead + scoring.window < n)
    end = ahead + scoring.window < begin ? begin : ahead + scoring.window;
  return {begin * block.n_heads, end * block.n_heads};
}

REGROUP_INLINE void clear_hidden(float* x, const Seen& seen, int64_t n) {
  for (int64_t c = 0; c < seen.begin; ++c) x[c] = 0;
  for (int64_t c = seen.end; c < n; ++c) x[c] = 0;
}

REGROUP_INLINE void add_biases(float* x, const Seen& seen, int64_t key, int64_t n_heads,
                               const Scoring& scoring) {
  for (int64_t c = seen.begin; c < seen.end; ++c)
    x[c] += scoring.biases[c % n_heads * scoring.biases_stride + key];
}

/// tanh to some 1e-7 of 1.
REGROUP_INLINE float tanh_of(float x) { return 1.0F - 2.0F / (fast_exp(2.0F * x) + 1.0F); }

}  // namespace

Scoring::Scoring(const ScoreRule& rule, int64_t n_head, int64_t n_keys)
    : scale(static_cast<float>(rule.scale)),
      soft_cap(static_cast<float>(rule.soft_cap.value_or(0))),
      window(rule.window.value_or(0)),
      biases(nullptr),
      biases_stride(n_keys) {
  if (!rule.alibi) return;
  all_biases_ = rule.alibi->of_keys(n_head, n_keys).to(torch::kFloat32).contiguous();
  biases = all_biases_.const_data_ptr<float>();
}

Scoring Scoring::from_head(int64_t first_head) const {
  auto scoring = *this;
  if (biases != nullptr) scoring.biases += first_head * biases_stride;
  return scoring;
}

REGROUP_CPU_CLONES void exponentials(float* s, const Block& block, const Scoring& scoring,
                                     Running& running) {
  const int64_t n = block.columns(), stride = block.stride();
  const float scale = scoring.scale, cap = scoring.soft_cap;
  float* __restrict highest = running.highest.data();
  float* __restrict sum = running.sum.data();
  float* __restrict factor = running.factor.data();
  for (int64_t c = 0; c < n; ++c) factor[c] = highest[c];
  for (int64_t i = 0; i < block.n_keys; ++i) {
    const int64_t key = block.first_key + i;
    const auto seen = seen_by(block, scoring, key);
    float* __restrict x = s + i * stride;
    if (cap == 0) {
      for (int64_t c = seen.begin; c < seen.end; ++c) x[c] *= scale;
    } else {
      for (int64_t c = seen.begin; c < seen.end; ++c) x[c] = cap * tanh_of(x[c] * (scale / cap));
    }
    if (scoring.biases != nullptr) add_biases(x, seen, key, block.n_heads, scoring);
    for (int64_t c = seen.begin; c < seen.end; ++c)
      highest[c] = x[c] > highest[c] ? x[c] : highest[c];
  }
  for (int64_t c = 0; c < n; ++c) {
    factor[c] = fast_exp(factor[c] - highest[c]);
    sum[c] *= factor[c];
  }
  for (int64_t i = 0; i < block.n_keys; ++i) {
    const auto seen = seen_by(block, scoring, block.first_key + i);
    float* __restrict x = s + i * stride;
    clear_hidden(x, seen, n);
    for (int64_t c = seen.begin; c < seen.end; ++c) {
      x[c] = fast_exp(x[c] - highest[c]);
      sum[c] += x[c];
    }
  }
}

REGROUP_CPU_CLONES void weights_and_gradients(float* s, float* grads, const Block& block,
                                              const Scoring& scoring, const Columns& columns) {
  const int64_t n = block.columns(), stride = block.stride();
  const float scale = scoring.scale, cap = scoring.soft_cap;
  const float* __restrict log_sums = columns.log_sums.data();
  const float* __restrict dots = columns.dots.data();
  for (int64_t i = 0; i < block.n_keys; ++i) {
    const int64_t key = block.first_key + i;
    const auto seen = seen_by(block, scoring, key);
    float* __restrict x = s + i * stride;
    float* __restrict g = grads + i * stride;
    clear_hidden(x, seen, n);
    clear_hidden(g, seen, n);
    if (cap == 0) {
      for (int64_t c = seen.begin; c < seen.end; ++c) {
        x[c] *= scale;
        g[c] = (g[c] - dots[c]) * scale;
      }
    } else {
      for (int64_t c = seen.begin; c < seen.end; ++c) {
        const float tanh = tanh_of(x[c] * (scale / cap));
        x[c] = cap * tanh;
        g[c] = (g[c] - dots[c]) * scale * (1 - tanh * tanh);
      }
    }
    if (scoring.biases != nullptr) add_biases(x, seen, key, block.n_heads, scoring);
    for (int64_t c = seen.begin; c < seen.end; ++c) {
      x[c] = fast_exp(x[c] - log_sums[c]);
      g[c] *= x[c];
    }
  }
}

REGROUP_CPU_CLONES void scale_columns(float* x, int64_t n_rows, const float* factors, int64_t n) {
  for (int64_t i = 0; i < n_rows; ++i) {
    float* __restrict row = x + i * n;
    for (int64_t c = 0; c < n; ++c) row[c] *= factors[c];
  }
}

}  // namespace regroup::kernels::cpu
