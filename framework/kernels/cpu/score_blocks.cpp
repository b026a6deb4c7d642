#include "framework/kernels/cpu/score_blocks.h"

#include <bit>
#include <cmath>
#include <limits>

#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/words.h"

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

REGROUP_INLINE bool is_seen_whole(const Block& block, const Scoring& scoring) {
  const auto first = seen_by(block, scoring, block.first_key);
  const auto last = seen_by(block, scoring, block.first_key + block.n_keys - 1);
  return last.begin == 0 && first.end == block.columns();
}

REGROUP_INLINE void fill_hidden(float* x, const Seen& seen, int64_t n, float value) {
  for (int64_t c = 0; c < seen.begin; ++c) x[c] = value;
  for (int64_t c = seen.end; c < n; ++c) x[c] = value;
}

REGROUP_INLINE void add_biases(float* x, const Seen& seen, int64_t key, int64_t n_heads,
                               const Scoring& scoring) {
  for (int64_t c = seen.begin; c < seen.end; ++c) x[c] += scoring.bias(c % n_heads, key);
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

namespace {

constexpr float kLog2e = 1.44269504F;
/// Numbers of a right operand that stand together where rows are interleaved.
template <typename C>
constexpr int64_t kInterleaved = kInterleaves<C> ? 2 : 1;
/// As far as a weight may exceed 1, in powers of two. So what was summed before is rarely scaled.
constexpr float kHeadroom = 8;

/// Products -> scores but for a factor, with hidden ones at -infinity. -> the factor, which also
/// turns scores into exponents of two.
REGROUP_INLINE float as_scores(float* s, const Block& block, const Scoring& scoring) {
  const bool has_factor_only = scoring.soft_cap == 0 && scoring.biases == nullptr;
  const float scale = scoring.scale, cap = scoring.soft_cap;
  if (has_factor_only && is_seen_whole(block, scoring)) return scale * kLog2e;
  for (int64_t i = 0; i < block.n_keys; ++i) {
    const int64_t key = block.first_key + i;
    const auto seen = seen_by(block, scoring, key);
    float* __restrict x = s + i * block.stride();
    fill_hidden(x, seen, block.columns(), -std::numeric_limits<float>::infinity());
    if (has_factor_only) continue;
    if (cap == 0) {
      for (int64_t c = seen.begin; c < seen.end; ++c) x[c] *= scale;
    } else {
      for (int64_t c = seen.begin; c < seen.end; ++c) x[c] = cap * tanh_of(x[c] * (scale / cap));
    }
    if (scoring.biases != nullptr) add_biases(x, seen, key, block.n_heads, scoring);
  }
  return has_factor_only ? scale * kLog2e : kLog2e;
}

/// Raises the columns' highest to `found` where weights would exceed the headroom. -> true where
/// any was raised.
REGROUP_INLINE bool raise(const Floats& found, float* highest, float* sum, float* factor) {
  const auto before = load_vector<Floats>(highest);
  const auto is_far = found > before + kHeadroom;
  const Floats after = is_far ? found : before;
  const Floats scaling = exp2_of(before - after);
  store_vector(highest, after);
  store_vector(factor, scaling);
  store_vector(sum, load_vector<Floats>(sum) * scaling);
  int any = 0;
  for (int64_t lane = 0; lane < kWords; ++lane) any |= is_far[lane];
  return any != 0;
}

/// Store two rows of a right operand of the given width.
REGROUP_INLINE void store_right(const Floats& even, const Floats& odd, int64_t width, float* out) {
  store_vector(out, even);
  store_vector(out + width, odd);
}
REGROUP_INLINE void store_right(const Floats& even, const Floats& odd, int64_t,
                                c10::BFloat16* out) {
  store_vector(out, bfloat16_words(even) | bfloat16_words(odd) << 16);
}
/// Store a row of a left operand.
REGROUP_INLINE void store_left(const Floats& row, float* out) { store_vector(out, row); }
REGROUP_INLINE void store_left(const Floats& row, c10::BFloat16* out) {
  store_vector(out, __builtin_convertvector(bfloat16_words(row), Halves));
}

/// The highest of each of 16 columns. n_rows: a multiple of 4, as four chains of comparisons run
/// side by side.
REGROUP_INLINE Floats highest_of_rows(const float* x, int64_t n_rows, int64_t stride) {
  Floats most[4];
  for (int64_t i = 0; i < 4; ++i) most[i] = load_vector<Floats>(x + i * stride);
  for (int64_t i = 4; i < n_rows; i += 4) {
    for (int64_t j = 0; j < 4; ++j)
      most[j] = larger(load_vector<Floats>(x + (i + j) * stride), most[j]);
  }
  return larger(larger(most[0], most[1]), larger(most[2], most[3]));
}

template <typename C>
REGROUP_INLINE bool weigh(float* s, C* out, const Block& block, const Scoring& scoring,
                          Running& running) {
  const float to_exponents = as_scores(s, block, scoring);
  const int64_t stride = block.stride();
  bool rises = false;
  for (int64_t c = 0; c < stride; c += kWords) {
    float* const x = s + c;
    const auto most = highest_of_rows(x, block.n_keys, stride);
    rises |= raise(most * to_exponents, &running.highest[static_cast<size_t>(c)],
                   &running.sum[static_cast<size_t>(c)], &running.factor[static_cast<size_t>(c)]);
    const auto highest = load_vector<Floats>(&running.highest[static_cast<size_t>(c)]);
    auto sum = load_vector<Floats>(&running.sum[static_cast<size_t>(c)]);
    for (int64_t i = 0; i < block.n_keys; i += 2) {
      const float* row = x + i * stride;
      const Floats even = exp2_of(load_vector<Floats>(row) * to_exponents - highest);
      const Floats odd = exp2_of(load_vector<Floats>(row + stride) * to_exponents - highest);
      sum += even + odd;
      store_right(even, odd, stride, out + i * stride + c * kInterleaved<C>);
    }
    store_vector(&running.sum[static_cast<size_t>(c)], sum);
  }
  return rises;
}

}  // namespace

float Running::log_sum(size_t column) const {
  return highest[column] / kLog2e + std::log(sum[column]);
}

REGROUP_CPU_CLONES bool exponentials(float* s, float* weights, const Block& block,
                                     const Scoring& scoring, Running& running) {
  return weigh(s, weights, block, scoring, running);
}
REGROUP_CPU_CLONES bool exponentials(float* s, c10::BFloat16* weights, const Block& block,
                                     const Scoring& scoring, Running& running) {
  return weigh(s, weights, block, scoring, running);
}

namespace {

/// Takes the gradients of capped scores through the cap. s: scores as as_scores() leaves them.
REGROUP_INLINE void gradients_before_cap(const float* s, float* grads, const Block& block,
                                         const Scoring& scoring, const float* dots) {
  for (int64_t i = 0; i < block.n_keys; ++i) {
    const int64_t key = block.first_key + i;
    const auto seen = seen_by(block, scoring, key);
    const float* __restrict x = s + i * block.stride();
    float* __restrict g = grads + i * block.stride();
    for (int64_t c = seen.begin; c < seen.end; ++c) {
      const float tanh = (x[c] - scoring.bias(c % block.n_heads, key)) / scoring.soft_cap;
      g[c] = (g[c] - dots[c]) * (1 - tanh * tanh) + dots[c];
    }
  }
}

template <typename C>
REGROUP_INLINE void weigh_backward(float* s, float* grads, const Block& block,
                                   const Scoring& scoring, const Columns& columns,
                                   const ScoreOperands<C>& out) {
  const float to_exponents = as_scores(s, block, scoring);
  if (scoring.soft_cap != 0) gradients_before_cap(s, grads, block, scoring, columns.dots.data());
  const int64_t stride = block.stride();
  for (int64_t c = 0; c < stride; c += kWords) {
    const auto log_sums = load_vector<Floats>(columns.log_sums.data() + c) * kLog2e;
    const auto dots = load_vector<Floats>(columns.dots.data() + c);
    for (int64_t i = 0; i < block.n_keys; i += 2) {
      Floats gradients[2];
      for (int64_t odd = 0; odd < 2; ++odd) {
        const int64_t at = (i + odd) * stride + c;
        const Floats weights = exp2_of(load_vector<Floats>(s + at) * to_exponents - log_sums);
        gradients[odd] = (load_vector<Floats>(grads + at) - dots) * scoring.scale * weights;
        store_left(weights, out.weights + at);
        store_left(gradients[odd], out.gradients + at);
      }
      store_right(gradients[0], gradients[1], stride,
                  out.gradients_right + i * stride + c * kInterleaved<C>);
    }
  }
}

}  // namespace

REGROUP_CPU_CLONES void weights_and_gradients(float* s, float* grads, const Block& block,
                                              const Scoring& scoring, const Columns& columns,
                                              const ScoreOperands<float>& out) {
  weigh_backward(s, grads, block, scoring, columns, out);
}
REGROUP_CPU_CLONES void weights_and_gradients(float* s, float* grads, const Block& block,
                                              const Scoring& scoring, const Columns& columns,
                                              const ScoreOperands<c10::BFloat16>& out) {
  weigh_backward(s, grads, block, scoring, columns, out);
}

REGROUP_CPU_CLONES void scale_columns(float* x, int64_t n_rows, const float* factors, int64_t n) {
  for (int64_t i = 0; i < n_rows; ++i) {
    float* __restrict row = x + i * n;
    for (int64_t c = 0; c < n; ++c) row[c] *= factors[c];
  }
}

}  // namespace regroup::kernels::cpu
