#include "framework/parameters/adamw.h"

#include <torch/optim.h>
#include <torch/types.h>

#include <cmath>

#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::seeded_randn;

/// Two blocks; the second has a gain, which does not decay, between two matrices.
std::vector<FlatParameters> two_blocks(torch::ScalarType dtype) {
  const std::vector<ParameterSpec> first{{"a", {3, 5}, 0.1, true}};
  const std::vector<ParameterSpec> second{
      {"b", {4, 3}, 0.1, true}, {"gain", {3}, 0, false}, {"c", {2, 3}, 0.1, true}};
  std::vector<FlatParameters> blocks;
  blocks.emplace_back(first, std::vector<OperandSpec>{{1}}, torch::TensorOptions(dtype));
  blocks.emplace_back(second, std::vector<OperandSpec>{{1}, {1}, {1}}, torch::TensorOptions(dtype));
  for (auto& block : blocks) {
    initialize(block, 7);
    block.enable_gradient();
  }
  return blocks;
}

void set_gradients(std::vector<FlatParameters>& blocks, uint64_t seed) {
  for (auto& block : blocks) block.gradient().copy_(seeded_randn({block.numel()}, seed++));
}

TEST_CASE("AdamW follows PyTorch's AdamW and leaves norm gains without decay", "[optimizer]") {
  auto blocks = two_blocks(torch::kFloat32);
  std::vector<torch::Tensor> decayed, kept;
  for (const auto& block : blocks) {
    for (size_t i = 0; i < block.parameters().size(); ++i) {
      auto& group = block.parameters()[i].weight_decay ? decayed : kept;
      group.push_back(block.parameter(i).clone().requires_grad_());
    }
  }
  const AdamWOptions options{0.8, 0.95, 1e-6, 0.3};
  const auto peer_options = [&](double weight_decay) {
    return std::make_unique<torch::optim::AdamWOptions>(torch::optim::AdamWOptions(0.01)
                                                            .betas({options.beta1, options.beta2})
                                                            .eps(options.eps)
                                                            .weight_decay(weight_decay));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(decayed, peer_options(options.weight_decay));
  groups.emplace_back(kept, peer_options(0));
  torch::optim::AdamW peer(groups);
  AdamW ours(blocks, options);
  for (uint64_t step = 1; step <= 5; ++step) {
    set_gradients(blocks, 10 * step);
    size_t next_decayed = 0, next_kept = 0;
    for (const auto& block : blocks) {
      for (size_t i = 0; i < block.parameters().size(); ++i) {
        const auto& spec = block.parameters()[i];
        auto& parameter = spec.weight_decay ? decayed[next_decayed++] : kept[next_kept++];
        parameter.mutable_grad() =
            0.5 * block.gradient().narrow(0, block.offset(i), parameter.numel()).view(spec.shape);
      }
    }
    ours.step(0.01, /*gradient_scale=*/0.5);
    peer.step();
  }
  CHECK(ours.steps() == 5);
  CHECK_THAT(blocks[0].parameter(0), AllClose(decayed[0].detach(), 1e-6));
  CHECK_THAT(blocks[1].parameter(0), AllClose(decayed[1].detach(), 1e-6));
  CHECK_THAT(blocks[1].parameter(1), AllClose(kept[0].detach(), 1e-6));
  CHECK_THAT(blocks[1].parameter(2), AllClose(decayed[2].detach(), 1e-6));
}

TEST_CASE("updates too small for bfloat16 are kept in the float32 masters", "[optimizer]") {
  auto blocks = two_blocks(torch::kBFloat16);
  AdamW optimizer(blocks, {0.9, 0.95, 1e-8, 0});
  const auto before = blocks[1].parameter(1).clone();
  for (int step = 0; step < 100; ++step) {
    for (auto& block : blocks) block.gradient().fill_(1);
    optimizer.step(1e-4, 1);  // a hundredth of the smallest bfloat16 step at 1
    if (step == 0) CHECK_THAT(blocks[1].parameter(1), AllClose(before));
  }
  CHECK_THAT(blocks[1].parameter(1).to(torch::kFloat32), AllClose(torch::full({3}, 0.99), 0.005));
  CHECK_THAT(blocks[1].flat(), AllClose(optimizer.state()[1].master.to(torch::kBFloat16)));
}

TEST_CASE("the gradient norm covers all blocks", "[optimizer]") {
  auto blocks = two_blocks(torch::kFloat32);
  blocks[0].gradient()[3] = 3;
  blocks[1].gradient()[20] = -4;
  CHECK(gradient_square(blocks) == Approx(25));
}

}  // namespace
}  // namespace regroup
