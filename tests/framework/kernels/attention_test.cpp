#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernel_table.h"
#include "tests/support/catch_torch.h"
#include "tests/support/close_to.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::close_to;
using testing::seeded_randn;
using torch::Tensor;

constexpr int64_t kHeadDim = 5;

/// Lengths on both sides of a block's, and more heads in a group than divide its columns.
struct Shape {
  int64_t batch, positions, n_head, n_kv_head;
};
const Shape kShapes[] = {
    {2, 1, 4, 4}, {1, 130, 3, 3}, {2, 67, 6, 2}, {1, 200, 9, 1}, {33, 9, 4, 2}};

ScoreRule any_rule() {
  return GENERATE(ScoreRule{0.4}, ScoreRule{.scale = 0.4, .soft_cap = 0.7},
                  ScoreRule{.scale = 0.4, .window = 40}, ScoreRule{.scale = 0.4, .window = 1},
                  ScoreRule{.scale = 0.4, .alibi = AlibiConfig{}},
                  ScoreRule{0.4, 0.7, 70, AlibiConfig{0.5, true}});
}

Tensor heads_of(const Shape& shape) {
  return seeded_randn({shape.batch, shape.positions, shape.n_head + 2 * shape.n_kv_head, kHeadDim});
}

Tensor outputs_for(const Shape& shape) {
  return seeded_randn({shape.batch, shape.positions, shape.n_head * kHeadDim}, 2);
}

/// Each result is a sum of many rounded numbers; bfloat16 also rounds the weights and their
/// gradients.
AllClose close_to_sum(const Tensor& expected) {
  if (expected.scalar_type() == torch::kBFloat16) return AllClose(expected, 0.02, 0.03);
  if (expected.scalar_type() == torch::kFloat32) return AllClose(expected, 5e-5, 5e-5);
  return close_to(expected);
}

TEST_CASE("the attention kernels compute their formula in every number format", "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat64);
  const auto rule = any_rule();
  for (const auto& shape : kShapes) {
    INFO(type << " " << shape.positions << " positions of " << shape.n_head << " heads");
    const auto heads = heads_of(shape).to(type), grad = outputs_for(shape).to(type);
    const auto& formulas = kernels::formulas::table();
    const auto wide = heads.to(torch::kFloat64);
    const auto expected = formulas.attention(wide, shape.n_head, rule);
    const auto expected_grad =
        formulas.attention_backward(wide, shape.n_head, rule, expected, grad.to(torch::kFloat64));
    const auto found = kernels::attention(heads, shape.n_head, rule);
    CHECK_THAT(found.outputs, close_to_sum(expected.outputs.to(type)));
    const auto found_grad = kernels::attention_backward(heads, shape.n_head, rule, found, grad);
    CHECK_THAT(found_grad, close_to_sum(expected_grad.to(type)));
  }
}

TEST_CASE("attention computes its formula where later scores are far higher", "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16);
  const Shape shape{1, 300, 4, 2};
  const ScoreRule rule{4};
  const auto heads = (heads_of(shape) * torch::linspace(0.2, 2, 300).view({300, 1, 1})).to(type);
  const auto grad = outputs_for(shape).to(type);
  const auto wide = heads.to(torch::kFloat64);
  const auto& formulas = kernels::formulas::table();
  const auto expected = formulas.attention(wide, shape.n_head, rule);
  const auto found = kernels::attention(heads, shape.n_head, rule);
  CHECK_THAT(found.outputs, close_to_sum(expected.outputs.to(type)));
  if (type == torch::kBFloat16) return;  // whose gradients are rounded before they are scaled
  CHECK_THAT(
      kernels::attention_backward(heads, shape.n_head, rule, found, grad),
      AllClose(
          formulas.attention_backward(wide, shape.n_head, rule, expected, grad.to(torch::kFloat64))
              .to(type),
          1e-3, 1e-4));
}

TEST_CASE("attention and its gradient do not depend on the number of threads", "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16);
  const Shape shape{2, 150, 6, 2};
  const auto heads = heads_of(shape).to(type), grad = outputs_for(shape).to(type);
  const auto computed = [&](int n_threads) {
    at::set_num_threads(n_threads);
    const auto forward = kernels::attention(heads, shape.n_head, ScoreRule{0.4});
    return std::pair{forward.outputs, kernels::attention_backward(heads, shape.n_head,
                                                                  ScoreRule{0.4}, forward, grad)};
  };
  const int n_threads = at::get_num_threads();
  const auto alone = computed(1), together = computed(3);
  at::set_num_threads(n_threads);
  CHECK(alone.first.equal(together.first));
  CHECK(alone.second.equal(together.second));
}

TEST_CASE("a weight that is not a number reaches attention's output and gradient", "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16);
  const Shape shape{1, 70, 2, 2};
  const double bad = GENERATE(std::nan(""), INFINITY);
  auto heads = heads_of(shape).to(type);
  heads[0][3][2][1] = bad;  // of a key
  const auto found = kernels::attention(heads, shape.n_head, ScoreRule{0.4});
  const auto grad = kernels::attention_backward(heads, shape.n_head, ScoreRule{0.4}, found,
                                                outputs_for(shape).to(type));
  CHECK(found.outputs[0].narrow(0, 0, 3).isfinite().all().item<bool>());
  CHECK_FALSE(found.outputs[0].narrow(0, 3, 67).isfinite().all().item<bool>());
  CHECK_FALSE(grad.isfinite().all().item<bool>());
}

TEST_CASE("attention refuses heads that are not those of queries, keys and values", "[kernels]") {
  const auto attend = [](const Tensor& heads, int64_t n_head) {
    kernels::attention(heads, n_head, ScoreRule::plain(4));
  };
  CHECK_THROWS_WITH(attend(torch::zeros({2, 3, 8, 4}), 5), Contains("5 query heads of 8 heads"));
  CHECK_THROWS_WITH(attend(torch::zeros({2, 3, 8, 4}), 8), Contains("8 query heads of 8 heads"));
  CHECK_THROWS_WITH(attend(torch::zeros({2, 3, 11, 4}), 5), Contains("5 query heads of 11 heads"));
  CHECK_THROWS_WITH(attend(torch::zeros({3, 8, 4}), 4), Contains("attention: heads"));
  CHECK_THROWS_WITH(attend(torch::zeros({2, 8, 3, 4}).transpose(1, 2), 4), Contains("contiguous"));
}

}  // namespace
}  // namespace regroup
