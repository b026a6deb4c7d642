#include <torch/types.h>

#include "framework/kernels/kernel_table.h"
#include "tests/support/catch_torch.h"
#include "tests/support/close_to.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::close_to;
using testing::seeded_randn;
using torch::Tensor;

TEST_CASE("the decode attention kernel computes its formula in every number format", "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat64);
  const int64_t n_kv_head = GENERATE(1, 2, 6), positions = GENERATE(1, 3), past = GENERATE(0, 4);
  const auto all_heads = seeded_randn({2, positions, 8, 5}).to(type);
  const auto queries = all_heads.narrow(2, 0, 6);  // strided, as in the output of the projection
  const auto keys = seeded_randn({2, n_kv_head, 7, 5}, 2).to(type),
             values = seeded_randn({2, n_kv_head, 7, 5}, 3).to(type);
  const auto rule = GENERATE(ScoreRule{0.3}, ScoreRule{.scale = 0.3, .soft_cap = 0.7},
                             ScoreRule{.scale = 0.3, .window = 2},
                             ScoreRule{.scale = 0.3, .alibi = AlibiConfig{}},
                             ScoreRule{0.3, 0.7, 3, AlibiConfig{0.5}},
                             ScoreRule{.scale = 0.3, .alibi = AlibiConfig{0.5, true}});
  const auto expected = kernels::formulas::table().decode_attention(
      queries.to(torch::kFloat64), keys.to(torch::kFloat64), values.to(torch::kFloat64), past,
      rule);
  const auto found = kernels::decode_attention(queries, keys, values, past, rule);
  CHECK_THAT(found, close_to(expected.to(type)));
}

TEST_CASE("long caches are attended to in parts, whole lanes of dims at a time", "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16);
  const int64_t n_kv_head = GENERATE(1, 3), positions = GENERATE(1, 3), d = GENERATE(16, 83);
  const int64_t past = 600, capacity = 700;
  const auto queries = seeded_randn({2, positions, 6, d}).to(type);
  const auto keys = seeded_randn({2, n_kv_head, capacity, d}, 2).to(type);
  auto values = seeded_randn({2, n_kv_head, capacity, d}, 3).to(type);
  values.narrow(2, past + positions, 1).fill_(NAN);  // nothing beyond the last position is read
  const auto rule =
      GENERATE(ScoreRule{0.3}, ScoreRule{.scale = 0.3, .soft_cap = 0.7},
               ScoreRule{.scale = 0.3, .window = 100}, ScoreRule{.scale = 0.3, .window = 1},
               ScoreRule{0.3, 0.7, 500, AlibiConfig{0.1}});
  const auto expected = kernels::formulas::table().decode_attention(
      queries.to(torch::kFloat64), keys.to(torch::kFloat64), values.to(torch::kFloat64), past,
      rule);
  const auto found = kernels::decode_attention(queries, keys, values, past, rule);
  CHECK_THAT(found, close_to(expected.to(type)));
}

TEST_CASE("decode attention refuses a cache that does not match the queries", "[kernels]") {
  const auto queries = torch::zeros({2, 1, 6, 4});
  const auto attend = [&](const Tensor& keys, const Tensor& values, int64_t past) {
    kernels::decode_attention(queries, keys, values, past, ScoreRule::plain(4));
  };
  const auto cache = torch::zeros({2, 3, 7, 4});
  CHECK_THROWS_WITH(attend(torch::zeros({2, 3, 7, 5}), cache, 0),
                    Contains("decode_attention: keys") && Contains("[2, 3, 7, 5]"));
  CHECK_THROWS_WITH(attend(torch::zeros({1, 3, 7, 4}), cache, 0), Contains("[1, 3, 7, 4]"));
  CHECK_THROWS_WITH(attend(cache, torch::zeros({2, 3, 6, 4}), 0),
                    Contains("decode_attention: values"));
  CHECK_THROWS_WITH(attend(cache.to(torch::kBFloat16), cache, 0), Contains("BFloat16"));
  CHECK_THROWS_WITH(attend(cache.transpose(1, 2), cache, 0), Contains("contiguous"));
  CHECK_THROWS_WITH(attend(torch::zeros({2, 4, 7, 4}), torch::zeros({2, 4, 7, 4}), 0),
                    Contains("6 query heads over 4 K/V heads"));
  CHECK_THROWS_WITH(attend(cache, cache, 7), Contains("1 positions after 7 in a cache of 7"));
}

}  // namespace
}  // namespace regroup
