#include <torch/types.h>

#include "models/convert/pool_layer.h"
#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::seeded_randn;
using torch::Tensor;

constexpr int64_t kWidth = 7, kRotaryDim = 4;  // d_model and head_dim

LayerProjections rotary_layer(int64_t n_head, int64_t n_kv_head, uint64_t seed = 1) {
  const auto weight = [&](int64_t rows, int64_t columns, uint64_t more) {
    return seeded_randn({rows, columns}, seed * 10 + more).to(torch::kFloat64);
  };
  return {{n_head, n_kv_head, kRotaryDim},           kRotaryDim,
          weight(n_head * kRotaryDim, kWidth, 1),    weight(n_kv_head * kRotaryDim, kWidth, 2),
          weight(n_kv_head * kRotaryDim, kWidth, 3), weight(kWidth, n_head * kRotaryDim, 4)};
}

/// A random Σ: symmetric, positive definite.
Tensor random_second_moment() {
  const auto x = seeded_randn({30, kWidth}, 77).to(torch::kFloat64);
  return x.t().matmul(x) / 30;
}

/// What query head j sees of a layer: the form of its scores, plane by plane, conj(q)ᵀ k, [planes,
/// d, d] complex, and what it writes, O_j V_h, [d, d].
Tensor score_form(const LayerProjections& layer, int64_t j) {
  const int64_t h = j / (layer.shape.n_head / layer.shape.n_kv_head);
  const auto q = as_planes(layer.q_proj.narrow(0, j * kRotaryDim, kRotaryDim));
  const auto k = as_planes(layer.k_proj.narrow(0, h * kRotaryDim, kRotaryDim));
  return q.conj().unsqueeze(2) * k.unsqueeze(1);
}
Tensor output_form(const LayerProjections& layer, int64_t j) {
  const int64_t h = j / (layer.shape.n_head / layer.shape.n_kv_head);
  return layer.o_proj.narrow(1, j * kRotaryDim, kRotaryDim)
      .matmul(layer.v_proj.narrow(0, h * kRotaryDim, kRotaryDim));
}

/// Squared error of all scores (keys under Σ, queries too) and of all outputs (under Σ), against
/// the original layer.
struct Errors {
  double scores = 0, outputs = 0;
};
Errors errors(const LayerProjections& original, const LayerProjections& pooled,
              const Tensor& moment) {
  Errors sum;
  const auto root = torch::linalg_cholesky(moment);
  for (int64_t j = 0; j < original.shape.n_head; ++j) {
    const auto wide = root.to(torch::kComplexDouble);
    const auto scores = score_form(pooled, j) - score_form(original, j);
    sum.scores += wide.t().matmul(scores).matmul(wide).abs().square().sum().item<double>();
    sum.outputs += (output_form(pooled, j) - output_form(original, j))
                       .matmul(root)
                       .square()
                       .sum()
                       .item<double>();
  }
  return sum;
}

LayerProjections converted(const char* method, const LayerProjections& layer, int64_t n_kv_head,
                           const Tensor& moment) {
  return pool_layer(layer, neighbouring_heads(layer.shape.n_kv_head, n_kv_head),
                    conversion_method(method), {.moments = {moment, moment}});
}

/// All K/V heads the first one, keys turned by an angle a plane and values by an orthogonal matrix
/// of their own.
LayerProjections turned_layer(int64_t n_head, int64_t n_kv_head) {
  auto layer = rotary_layer(n_head, n_kv_head);
  const auto key = as_planes(layer.k_proj.narrow(0, 0, kRotaryDim)),
             value = layer.v_proj.narrow(0, 0, kRotaryDim);
  for (int64_t h = 1; h < n_kv_head; ++h) {
    const auto seed = static_cast<uint64_t>(h);
    const auto angles = seeded_randn({kRotaryDim / 2, 1}, 50 + seed).to(torch::kFloat64);
    const auto turn = torch::polar(torch::ones_like(angles), angles);
    const auto rotation = std::get<0>(
        torch::linalg_qr(seeded_randn({kRotaryDim, kRotaryDim}, 60 + seed).to(torch::kFloat64)));
    layer.k_proj.narrow(0, h * kRotaryDim, kRotaryDim).copy_(as_rows(turn * key));
    layer.v_proj.narrow(0, h * kRotaryDim, kRotaryDim).copy_(rotation.matmul(value));
  }
  return layer;
}

TEST_CASE("align and pca leave a layer alone that keeps its heads", "[convert]") {
  const auto* method = GENERATE("align", "pca");
  const auto layer = rotary_layer(6, 3);
  const auto same = converted(method, layer, 3, GENERATE(Tensor(), random_second_moment()));
  CHECK(torch::equal(same.q_proj, layer.q_proj));
  CHECK(torch::equal(same.k_proj, layer.k_proj));
  CHECK(torch::equal(same.v_proj, layer.v_proj));
  CHECK(torch::equal(same.o_proj, layer.o_proj));
}

TEST_CASE("heads that are equal up to a rotation pool without loss under align and pca",
          "[convert]") {
  const auto* method = GENERATE("align", "pca");
  const int64_t n_kv_head = GENERATE(1, 2);
  const auto moment = random_second_moment();
  const auto layer = turned_layer(8, 4);
  const auto lost = errors(layer, converted(method, layer, n_kv_head, moment), moment);
  const auto by_mean = errors(layer, converted("mean", layer, n_kv_head, moment), moment);
  CHECK(lost.scores < 1e-10 * by_mean.scores);
  CHECK(lost.outputs < 1e-10 * by_mean.outputs);
}

/// As a text whose activations have one large dim and fill few directions gives it: rounding made
/// the smallest eigenvalues negative.
Tensor ill_conditioned_moment() {
  const auto x = seeded_randn({2, kWidth}, 78);
  auto moment = x.t().matmul(x) - 1e-9 * torch::eye(kWidth, torch::kFloat64);
  moment[0][0] += 1e6;
  return moment;
}

TEST_CASE("turned heads pool without loss on a text with large dims", "[convert]") {
  const auto* method = GENERATE("align", "pca");
  const bool only_rotates = GENERATE(false, true);
  CAPTURE(method, only_rotates);
  auto layer = turned_layer(8, 4);
  if (only_rotates) layer.shape.clip_qkv = 1e6;
  const auto moment = ill_conditioned_moment();
  const auto positive = moment + 2e-9 * torch::eye(kWidth, torch::kFloat64);
  const auto lost = errors(layer, converted(method, layer, 1, moment), positive);
  const auto by_mean = errors(layer, converted("mean", layer, 1, moment), positive);
  CHECK(lost.scores < 1e-10 * by_mean.scores);
  CHECK(lost.outputs < 1e-10 * by_mean.outputs);
}

TEST_CASE("pca loses no more of scores and outputs than align and align than mean", "[convert]") {
  const auto seed = static_cast<uint64_t>(GENERATE(range(1, 6)));
  const int64_t n_kv_head = GENERATE(1, 2);
  const auto moment = random_second_moment();
  const auto layer = rotary_layer(8, 4, seed);
  const auto mean = errors(layer, converted("mean", layer, n_kv_head, moment), moment);
  const auto align = errors(layer, converted("align", layer, n_kv_head, moment), moment);
  const auto pca = errors(layer, converted("pca", layer, n_kv_head, moment), moment);
  CHECK(pca.scores <= align.scores);
  CHECK(pca.outputs <= align.outputs);
  CHECK(pca.scores < mean.scores);
  CHECK(pca.outputs < mean.outputs);
}

TEST_CASE("align is nowhere further from its heads than their mean is", "[convert]") {
  const auto seed = static_cast<uint64_t>(GENERATE(range(1, 6)));
  const auto moment = random_second_moment();
  const auto layer = rotary_layer(4, 4, seed);
  const auto spread = [&](const Tensor& heads,
                          const Tensor& pooled) {  // sum of ||head - pooled||²_Σ, after turning
    const auto far = heads - pooled;
    return (far.matmul(moment) * far).sum().item<double>();
  };
  const auto heads = [](const Tensor& weight) { return weight.view({-1, kRotaryDim, kWidth}); };
  const auto total = [&](const Tensor& weight) {
    return spread(heads(weight), torch::zeros({kRotaryDim, kWidth}, weight.options()));
  };
  const auto mean = converted("mean", layer, 1, moment),
             align = converted("align", layer, 1, moment);
  // Turning keeps every head's size, so what the spread loses the mean's own size gains.
  const auto left = [&](const Tensor& weight, const Tensor& pooled) {
    return total(weight) - 4 * total(pooled);
  };
  CHECK(left(layer.k_proj, align.k_proj) <= left(layer.k_proj, mean.k_proj));
  CHECK(left(layer.v_proj, align.v_proj) <= left(layer.v_proj, mean.v_proj));
  CHECK(left(layer.k_proj, align.k_proj) >= 0);
}

TEST_CASE("conversion without calibration takes the identity for the inputs' second moment",
          "[convert]") {
  const auto* method = GENERATE("align", "pca");
  const auto layer = rotary_layer(4, 4);
  const auto without = converted(method, layer, 2, Tensor());
  const auto with = converted(method, layer, 2, torch::eye(kWidth, torch::kFloat64));
  CHECK_THAT(without.k_proj, testing::AllClose(with.k_proj, 1e-12));
  CHECK_THAT(without.v_proj, testing::AllClose(with.v_proj, 1e-12));
}

}  // namespace
}  // namespace regroup
