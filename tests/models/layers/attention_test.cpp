#include "models/layers/attention.h"

#include <torch/types.h>

#include <cmath>

#include "models/layers/blocked_attention.h"
#include "models/layers/rope.h"
#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using testing::check_gradients;
using testing::seeded_randn;
using testing::tiny_config;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

constexpr int64_t kOddHeadDim = 6;

AttentionConfig shape_of(int64_t n_head, int64_t n_kv_head) {
  AttentionConfig shape;
  shape.n_head = n_head;
  shape.n_kv_head = n_kv_head;
  shape.head_dim = kOddHeadDim;
  shape.scores = ScoreRule::plain(kOddHeadDim);
  return shape;
}

/// All (n_head, n_kv_head) with n_kv_head | n_head up to 6 heads.
std::vector<AttentionConfig> all_shapes() {
  std::vector<AttentionConfig> shapes;
  for (int64_t n_head = 1; n_head <= 6; ++n_head) {
    for (int64_t n_kv_head = 1; n_kv_head <= n_head; ++n_kv_head) {
      if (n_head % n_kv_head == 0) shapes.push_back(shape_of(n_head, n_kv_head));
    }
  }
  return shapes;
}

Tensor random_qkv(const AttentionConfig& shape, int64_t batch, int64_t positions) {
  return seeded_randn({batch, positions, (shape.n_head + 2 * shape.n_kv_head) * shape.head_dim});
}

RopeAngles angles(int64_t first, int64_t count, torch::ScalarType dtype = torch::kFloat64) {
  return Rope(*tiny_config().layer(0).attention.rotary, torch::TensorOptions(dtype))
      .angles(first, count);
}

/// One head's vector at one position, its pairs of dims (i, i + head_dim / 2) turned by the
/// position's angles.
std::vector<double> rotated(const Tensor& head, int64_t position) {
  std::vector<double> result(kOddHeadDim);
  for (int64_t i = 0; i < kOddHeadDim / 2; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(500.0, -2.0 * static_cast<double>(i) / kOddHeadDim);
    const double a = head[i].item<double>(), b = head[i + kOddHeadDim / 2].item<double>();
    result[static_cast<size_t>(i)] = a * std::cos(angle) - b * std::sin(angle);
    result[static_cast<size_t>(i + kOddHeadDim / 2)] = b * std::cos(angle) + a * std::sin(angle);
  }
  return result;
}

/// Attention written out: every head and position by itself.
Tensor plain_attention(const Tensor& qkv, const AttentionConfig& shape) {
  const int64_t batch = qkv.size(0), positions = qkv.size(1);
  const auto heads = qkv.view({batch, positions, shape.n_head + 2 * shape.n_kv_head, kOddHeadDim});
  auto y = torch::zeros({batch, positions, shape.n_head, kOddHeadDim}, torch::kFloat64);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < shape.n_head; ++h) {
      const int64_t key = shape.n_head + h / (shape.n_head / shape.n_kv_head),
                    value = key + shape.n_kv_head;
      for (int64_t t = 0; t < positions; ++t) {
        const auto query = rotated(heads[b][t][h], t);
        double sum = 0;
        for (int64_t s = 0; s <= t; ++s) {
          const auto k = rotated(heads[b][s][key], s);
          double score = 0;
          for (size_t i = 0; i < k.size(); ++i) score += query[i] * k[i];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(kOddHeadDim)));
          y[b][t][h] += weight * heads[b][s][value];
          sum += weight;
        }
        y[b][t][h] /= sum;
      }
    }
  }
  return y.flatten(2);
}

TEST_CASE("attention equals loops over heads and positions for all counts of heads",
          "[attention]") {
  for (const auto& shape : all_shapes()) {
    INFO("n_head " << shape.n_head << " n_kv_head " << shape.n_kv_head);
    const auto qkv = random_qkv(shape, 2, 5);
    const auto expected = plain_attention(qkv, shape);
    CHECK_THAT(attention(qkv.clone(), shape, angles(0, 5)), AllClose(expected, 1e-10));
    const auto narrow = qkv.to(torch::kFloat32);
    CHECK_THAT(attention(narrow, shape, angles(0, 5, torch::kFloat32)),
               AllClose(expected.to(torch::kFloat32), 1e-5));
  }
}

TEST_CASE("attention in bfloat16 is within what bfloat16 gives", "[attention]") {
  for (const auto& shape : all_shapes()) {
    const auto qkv = random_qkv(shape, 2, 5).to(torch::kBFloat16);
    const auto expected = plain_attention(qkv.to(torch::kFloat64), shape).to(torch::kBFloat16);
    CHECK_THAT(attention(qkv, shape, angles(0, 5, torch::kFloat32)), AllClose(expected, 0.05));
  }
}

TEST_CASE("attention has the gradients of its formula for MHA and GQA and MQA", "[attention]") {
  const auto shape = shape_of(4, GENERATE(1, 2, 4));
  check_gradients([&](const Tensors& in) { return attention(in[0].clone(), shape, angles(0, 3)); },
                  {random_qkv(shape, 2, 3)});
}

TEST_CASE("every score rule gives the same attention on every path", "[attention]") {
  auto shape = shape_of(6, GENERATE(1, 3));
  shape.scores = GENERATE(ScoreRule{0.3}, ScoreRule{.scale = 0.3, .soft_cap = 0.7},
                          ScoreRule{.scale = 0.3, .window = 4},
                          ScoreRule{.scale = 0.3, .alibi = AlibiConfig{}},
                          ScoreRule{.scale = 0.3, .alibi = AlibiConfig{0.5, /*rounds=*/true}},
                          ScoreRule{0.3, 0.7, 4, AlibiConfig{}});
  const int64_t positions = 9;
  const auto qkv = random_qkv(shape, 2, positions);
  const auto turns = angles(0, positions);
  const auto heads = rotated_heads(qkv.clone(), shape, turns);
  // Written out: all scores of all heads.
  const auto keys = heads.keys.repeat_interleave(shape.group_size(), 1),
             values = heads.values.repeat_interleave(shape.group_size(), 1);
  const auto scores = shape.scores.scores(heads.queries.matmul(keys.mT()) * 0.3, 0);
  const auto expected = scores.softmax(-1).matmul(values).transpose(1, 2).flatten(2);

  CHECK_THAT(attention(qkv.clone(), shape, turns), AllClose(expected, 1e-12));
  const auto blocks = std::vector<QueryBlock>{{0, 5}, {5, 4}};
  CHECK_THAT(blocked_attention(heads, shape.scores, blocks), AllClose(expected, 1e-12));
  const std::vector<int64_t> cache_shape{2, shape.n_kv_head, positions, kOddHeadDim};
  LayerCache cache{torch::zeros(cache_shape, torch::kFloat64),
                   torch::zeros(cache_shape, torch::kFloat64)};
  for (const auto& [past, count] : {std::pair{0, 5}, std::pair{5, 1}, std::pair{6, 3}}) {
    const auto y = cached_attention(qkv.narrow(1, past, count).clone(), shape, angles(past, count),
                                    cache, past);
    CHECK_THAT(y, AllClose(expected.narrow(1, past, count), 1e-12));
  }
  check_gradients([&](const Tensors& in) { return attention(in[0].clone(), shape, angles(0, 5)); },
                  {random_qkv(shape, 1, 5)});
}

TEST_CASE("a score rule has the biases, the window and the cap of its formula", "[attention]") {
  const auto slopes = AlibiConfig().slopes(6);
  const std::vector<double> of_6{0.25, 0.0625, 1.0 / 64, 1.0 / 256, 0.5, 0.125};
  for (int64_t h = 0; h < 6; ++h)
    CHECK(slopes[h].item<double>() == Approx(of_6[static_cast<size_t>(h)]));
  const ScoreRule rule{.scale = 1, .soft_cap = 2, .window = 3, .alibi = AlibiConfig{}};
  const auto products = seeded_randn({6, 2, 7});
  const auto scores = rule.scores(products, /*first=*/5);
  for (int64_t h = 0; h < 6; ++h) {
    for (int64_t query = 0; query < 2; ++query) {
      for (int64_t key = 0; key < 7; ++key) {
        const int64_t ahead = key - (5 + query);
        const double score = scores[h][query][key].item<double>();
        if (ahead > 0 || ahead <= -3) {
          CHECK(score == -INFINITY);
          continue;
        }
        const double product = products[h][query][key].item<double>();
        CHECK(score == Approx(2 * std::tanh(product / 2) +
                              of_6[static_cast<size_t>(h)] * static_cast<double>(ahead)));
      }
    }
  }
}

TEST_CASE("attention by blocks of queries equals attention, and so do its gradients",
          "[attention]") {
  const auto shape = shape_of(4, GENERATE(1, 2, 4));
  const int64_t positions = 300;  // no multiple of a block
  auto qkv = random_qkv(shape, 2, positions);
  auto same = qkv.clone();
  const auto weights = seeded_randn({2, positions, 4 * kOddHeadDim}, 5);
  const auto expected = attention(qkv.requires_grad_().clone(), shape, angles(0, positions));
  const auto heads = rotated_heads(same.requires_grad_().clone(), shape, angles(0, positions));
  const auto y = blocked_attention(heads, shape.scores, query_blocks(positions));
  CHECK_THAT(y, AllClose(expected, 1e-12));
  (expected * weights).sum().backward();
  (y * weights).sum().backward();
  CHECK_THAT(same.grad(), AllClose(qkv.grad(), 1e-12));
}

TEST_CASE("GQA equals MHA whose K/V heads are repeated within each group", "[attention]") {
  const auto gqa = shape_of(6, GENERATE(1, 2, 3, 6)), mha = shape_of(6, 6);
  const auto qkv = random_qkv(gqa, 2, 5);
  const auto heads = qkv.unflatten(2, {-1, kOddHeadDim});
  const int64_t group_size = gqa.n_head / gqa.n_kv_head;
  const auto repeated =
      torch::cat({heads.narrow(2, 0, 6),
                  heads.narrow(2, 6, 2 * gqa.n_kv_head).repeat_interleave(group_size, 2)},
                 2);
  const auto expected = attention(repeated.flatten(2), mha, angles(0, 5));
  CHECK_THAT(attention(qkv.clone(), gqa, angles(0, 5)), AllClose(expected, 1e-12));
}

TEST_CASE("a position sees nothing of those after it", "[attention]") {
  const auto shape = shape_of(4, 2);
  auto qkv = random_qkv(shape, 1, 5);
  const auto before = attention(qkv.clone(), shape, angles(0, 5));
  qkv.narrow(1, 3, 2).fill_(7);
  const auto after = attention(qkv, shape, angles(0, 5));
  CHECK_THAT(after.narrow(1, 0, 3), AllClose(before.narrow(1, 0, 3)));
  CHECK_THAT(after, !AllClose(before, 0.1));
}

TEST_CASE("attention over a cache equals attention over the whole sequence", "[attention]") {
  const auto dtype = GENERATE(torch::kFloat64, torch::kFloat32);
  const auto pieces = GENERATE(std::vector<int64_t>{1, 1, 1, 1, 1}, std::vector<int64_t>{3, 1, 1},
                               std::vector<int64_t>{2, 3}, std::vector<int64_t>{5});
  for (const auto& shape : all_shapes()) {
    const auto qkv = random_qkv(shape, 2, 5).to(dtype);
    const auto expected = attention(qkv.clone(), shape, angles(0, 5, dtype));
    const std::vector<int64_t> cache_shape{2, shape.n_kv_head, 7, kOddHeadDim};
    LayerCache cache{torch::full(cache_shape, NAN, dtype), torch::full(cache_shape, NAN, dtype)};
    int64_t past = 0;
    for (const int64_t positions : pieces) {
      const auto piece = qkv.narrow(1, past, positions).clone();
      const auto y = cached_attention(piece, shape, angles(past, positions, dtype), cache, past);
      CHECK_THAT(y, AllClose(expected.narrow(1, past, positions),
                             dtype == torch::kFloat64 ? 1e-10 : 1e-5));
      past += positions;
    }
  }
}

TEST_CASE("rope angles do not depend on how the positions were asked for", "[attention]") {
  Rope rope(*tiny_config().layer(0).attention.rotary, torch::kFloat64);
  const auto late = rope.angles(9, 3);
  rope.angles(0, 100);
  CHECK_THAT(rope.angles(9, 3).cos, AllClose(late.cos));
  CHECK_THAT(rope.angles(0, 12).sin.narrow(0, 9, 3), AllClose(late.sin));
  CHECK(rope.angles(1, 1).sin[0][1].item<double>() == Approx(std::sin(std::pow(500.0, -1.0 / 3))));
}

TEST_CASE("linear scaling divides every frequency and llama3 scaling only the low ones",
          "[attention]") {
  auto config = tiny_config().layer(0).attention.rotary.value();
  const auto plain = Rope(config, torch::kFloat64).angles(1, 1).sin.asin();
  config.scaling = {RopeScaling::Kind::kLinear, 4};
  CHECK_THAT(Rope(config, torch::kFloat64).angles(4, 1).sin.asin(), AllClose(plain, 1e-12));

  config.scaling = {RopeScaling::Kind::kLlama3, 4, 1, 4, 60};
  // Wavelengths 6.28, 49.9, 396 against 60 / 4 and 60 / 1: kept, blended, divided.
  const auto scaled = Rope(config, torch::kFloat64).angles(1, 1).sin.asin()[0];
  const double wavelength = 2 * M_PI * std::pow(500.0, 1.0 / 3), blend = (60 / wavelength - 1) / 3;
  CHECK(scaled[0].item<double>() == Approx(plain[0][0].item<double>()));
  CHECK(scaled[1].item<double>() == Approx(plain[0][1].item<double>() * ((1 - blend) / 4 + blend)));
  CHECK(scaled[2].item<double>() == Approx(plain[0][2].item<double>() / 4));
}

}  // namespace
}  // namespace regroup
