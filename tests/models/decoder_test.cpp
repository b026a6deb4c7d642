#include "models/decoder.h"

#include <torch/nn/functional/loss.h>
#include <torch/types.h>

#include "models/generate.h"
#include "tests/support/catch_torch.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using testing::random_tokens;
using testing::tiny_config;
using testing::tiny_decoder;
using testing::with_repeated_kv_heads;
using torch::Tensor;

/// MHA, GQA, MQA, and heads that differ by layer, of 4 query heads.
const std::vector<std::vector<int64_t>> kKvHeads{{4, 4}, {2, 2}, {1, 1}, {4, 1}, {1, 2}};

TEST_CASE("gradients of micro-batches sum up in the blocks' buffers", "[decoder]") {
  const auto config = tiny_config();
  auto whole = tiny_decoder(config), parts = tiny_decoder(config);
  whole.enable_training(false);
  parts.enable_training(true);
  const auto tokens = random_tokens(config, 3, 5);
  whole.loss(tokens, 0.25).backward();
  parts.loss(tokens.narrow(0, 0, 1), 0.25).backward();
  parts.loss(tokens.narrow(0, 1, 2), 0.25).backward();
  for (size_t i = 0; i < whole.blocks().size(); ++i) {
    CHECK_THAT(parts.blocks()[i].gradient(), AllClose(whole.blocks()[i].gradient(), 1e-10));
  }
  parts.blocks()[1].zero_gradient();
  CHECK(parts.blocks()[1].gradient().abs().max().item<double>() == 0);
}

TEST_CASE("training in bfloat16 gives gradients close to those in float64", "[decoder]") {
  const auto config = tiny_config();
  auto exact = tiny_decoder(config), rounded = tiny_decoder(config, torch::kBFloat16);
  exact.enable_training(false);
  rounded.enable_training(false);
  const auto tokens = random_tokens(config, 3, 5);
  exact.loss(tokens, 1.0 / 12).backward();
  rounded.loss(tokens, 1.0 / 12).backward();
  for (size_t i = 0; i < exact.blocks().size(); ++i) {
    const auto& expected = exact.blocks()[i].gradient();
    const auto& found = rounded.blocks()[i].gradient();
    CHECK(found.scalar_type() == torch::kFloat32);
    CHECK((found - expected).norm().item<double>() < 0.1 * expected.norm().item<double>());
  }
}

TEST_CASE("the loss is the cross-entropy of the logits", "[decoder]") {
  auto decoder = tiny_decoder(tiny_config());
  const auto tokens = random_tokens(decoder.config(), 2, 6);
  const auto logits = decoder.logits(tokens.narrow(1, 0, 5)).flatten(0, 1);
  const auto expected =
      torch::nn::functional::cross_entropy(logits, tokens.narrow(1, 1, 5).flatten());
  CHECK_THAT(decoder.loss(tokens, 0.1), AllClose(expected, 1e-10));
}

TEST_CASE("a sequence's logits do not depend on the others in its batch", "[decoder]") {
  auto decoder = tiny_decoder(tiny_config());
  const auto tokens = random_tokens(decoder.config(), 3, 6);
  CHECK_THAT(decoder.logits(tokens.narrow(0, 1, 1)),
             AllClose(decoder.logits(tokens).narrow(0, 1, 1), 1e-10));
}

TEST_CASE("decoding with a K/V cache equals the full forward at every position", "[decoder]") {
  const auto n_kv_head = GENERATE(from_range(kKvHeads));
  const auto dtype = GENERATE(torch::kFloat64, torch::kFloat32);
  const int64_t prompt = GENERATE(1, 4);
  auto decoder = tiny_decoder(tiny_config(n_kv_head), dtype);
  const auto tokens = random_tokens(decoder.config(), 2, 9);
  const auto expected = decoder.logits(tokens).to(torch::kFloat32);
  Generation generation(decoder, 2, 9);
  auto logits = generation.advance(tokens.narrow(1, 0, prompt));
  for (int64_t position = prompt; position <= 9; ++position) {
    CHECK_THAT(logits, AllClose(expected.select(1, position - 1), 1e-4));
    if (position < 9) logits = generation.advance(tokens.narrow(1, position, 1));
  }
}

TEST_CASE("a GQA decoder equals the MHA decoder with its K/V heads repeated", "[decoder]") {
  auto gqa = tiny_decoder(tiny_config(GENERATE(from_range(kKvHeads))));
  auto mha = with_repeated_kv_heads(gqa, 4);
  const auto tokens = random_tokens(gqa.config(), 2, 6);
  CHECK_THAT(gqa.logits(tokens), AllClose(mha.logits(tokens), 1e-10));
}

TEST_CASE("initial weights depend on the seed and each tensor's name alone", "[decoder]") {
  const auto filled = [](const DecoderConfig& config, uint64_t seed) {
    Decoder decoder(config, torch::kFloat32);
    initialize(decoder, seed);
    return decoder.parameter({Role::kUp, 1}).clone();
  };
  const auto first = filled(tiny_config({4, 4}), 1);
  CHECK_THAT(filled(tiny_config({2, 1}), 1), AllClose(first));
  CHECK_THAT(filled(tiny_config({4, 4}), 2), !AllClose(first, 0.01));
}

}  // namespace
}  // namespace regroup
