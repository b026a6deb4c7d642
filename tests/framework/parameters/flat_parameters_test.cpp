#include "framework/parameters/flat_parameters.h"

#include <c10/core/CPUAllocator.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/tensors/caching_allocator.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

using torch::Tensor;

/// Two operands of 2 x 2 and 3 numbers.
FlatParameters two_operands() {
  FlatParameters block({{"a", {2, 2}, 0.1, true}, {"b", {3}, 0, false}}, {{1}, {1}},
                       torch::kFloat64);
  initialize(block, 1);
  block.enable_gradient();
  return block;
}

TEST_CASE("gradients of several passes are summed, those of an unused operand are 0",
          "[parameters]") {
  auto block = two_operands();
  const auto expected = [](double of_a) {
    return torch::tensor({of_a, of_a, of_a, of_a, 0.0, 0.0, 0.0}, torch::kFloat64);
  };
  block.gather()[0].sum().backward();
  CHECK_THAT(block.gradient(), AllClose(expected(1)));
  (block.gather()[0] * 2).sum().backward();
  CHECK_THAT(block.gradient(), AllClose(expected(3)));
  block.zero_gradient();
  CHECK_THAT(block.gradient(), AllClose(expected(0)));
  // Used twice in one pass.
  (block.gather()[0].sum() + block.gather()[0].sum()).backward();
  CHECK_THAT(block.gradient(), AllClose(expected(2)));
}

TEST_CASE("a gradient takes no memory between zero_gradient and backward", "[parameters]") {
  const int64_t n = 4 << 20;
  FlatParameters block({{"a", {n}, 0.1, true}}, {{1}}, torch::kFloat32);
  initialize(block, 1);
  block.enable_gradient();
  auto& allocator = CachingAllocator::instance();
  const auto previous = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&allocator, /*priority=*/255);
  block.gather()[0].sum().backward();
  const auto with_gradient = allocator.used_bytes();
  block.zero_gradient();
  CHECK(with_gradient - allocator.used_bytes() >= static_cast<size_t>(n) * sizeof(float));
  CHECK(block.has_gradient());
  c10::SetCPUAllocator(previous, /*priority=*/255);
}

TEST_CASE("frozen parameters have no gradient and build no graph", "[parameters]") {
  FlatParameters block({{"a", {3}, 0, false}}, {{1}}, torch::kFloat64);
  initialize(block, 1);
  CHECK_FALSE(block.has_gradient());
  CHECK_FALSE(block.gradient().defined());
  CHECK_FALSE(block.gather()[0].requires_grad());
}

}  // namespace
}  // namespace regroup
