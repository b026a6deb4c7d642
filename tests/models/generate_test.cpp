#include "models/generate.h"

#include <torch/types.h>

#include "tests/support/catch_torch.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using testing::random_tokens;
using testing::tiny_config;
using testing::tiny_decoder;
using torch::Tensor;

Tensor continued(Decoder& decoder, const Tensor& prompts, int64_t n_new, const Sampling& sampling,
                 const std::vector<uint64_t>& seeds) {
  auto tokens = prompts;
  generate(decoder, prompts, n_new, sampling, seeds, [&](const Tensor& next) {
    tokens = torch::cat({tokens, next.unsqueeze(1)}, 1);
    return true;
  });
  return tokens;
}

TEST_CASE("greedy generation takes the most likely token each time", "[generate]") {
  auto decoder = tiny_decoder(tiny_config());
  const auto prompt = random_tokens(decoder.config(), 2, 3);
  auto expected = prompt;
  for (int i = 0; i < 4; ++i) {
    expected = torch::cat(
        {expected, decoder.logits(expected).select(1, -1).argmax(-1, /*keepdim=*/true)}, 1);
  }
  CHECK(torch::equal(continued(decoder, prompt, 4, {}, {}), expected));
}

TEST_CASE("what a prompt draws depends on its own seed alone", "[generate]") {
  auto decoder = tiny_decoder(tiny_config());
  const auto prompt = random_tokens(decoder.config(), 1, 3);
  const Sampling sampling{.temperature = 2};
  const auto alone = continued(decoder, prompt, 8, sampling, {5});
  CHECK(
      torch::equal(continued(decoder, prompt.expand({3, 3}), 8, sampling, {4, 5, 6})[1], alone[0]));
  CHECK(!torch::equal(continued(decoder, prompt, 8, sampling, {4}), alone));
}

const auto kLogits = torch::tensor({{2.0, 1.0, 0.5, -0.5, -1.0, 0.0, 0.75, 1.75},
                                    {1.5, -0.25, 1.25, 1.0, -2.0, 0.75, 0.5, 1.125}});
const auto kSeen = torch::tensor({{0, 3, 3}, {4, 2, 1}});

Tensor probabilities(const Sampling& sampling) {
  return adjusted_logits(kLogits, kSeen, sampling).softmax(-1);
}

TEST_CASE("each way of sampling gives the probabilities of transformers' processor", "[generate]") {
  const auto check = [](const Sampling& sampling, const Tensor& expected) {
    CHECK_THAT(probabilities(sampling), AllClose(expected, 1e-6));
  };
  check({.temperature = 1, .top_k = 3},
        torch::tensor({{0.4658356, 0.1713713, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3627931},
                       {0.4055002, 0.0, 0.3158039, 0.0, 0.0, 0.0, 0.0, 0.2786959}}));
  check({.temperature = 1, .top_p = 0.7},
        torch::tensor({{0.4658356, 0.1713713, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3627931},
                       {0.3254551, 0.0, 0.2534647, 0.1973985, 0.0, 0.0, 0.0, 0.2236818}}));
  check({.temperature = 1, .min_p = 0.4},
        torch::tensor({{0.5621765, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4378235},
                       {0.2820885, 0.0, 0.2196907, 0.1710953, 0.0, 0.1332491, 0.0, 0.1938764}}));
}

TEST_CASE("the lowest temperatures leave the most likely token alone", "[generate]") {
  const auto likeliest = torch::one_hot(torch::tensor({0, 0}), 8).to(torch::kFloat32);
  CHECK_THAT(probabilities({.temperature = 1e-300}), AllClose(likeliest));
}

TEST_CASE("a repetition penalty makes what was seen less likely, greedily too", "[generate]") {
  CHECK_THAT(adjusted_logits(kLogits, kSeen, {.repetition_penalty = 1.5}),
             AllClose(torch::tensor({{1.3333333, 1.0, 0.5, -0.75, -1.0, 0.0, 0.75, 1.75},
                                     {1.5, -0.375, 0.8333333, 1.0, -3.0, 0.75, 0.5, 1.125}}),
                      1e-6));
  CHECK_THAT(adjusted_logits(kLogits, kSeen, {.repetition_penalty = 0.5}),
             AllClose(torch::tensor({{4.0, 1.0, 0.5, -0.25, -1.0, 0.0, 0.75, 1.75},
                                     {1.5, -0.125, 2.5, 1.0, -1.0, 0.75, 0.5, 1.125}})));
}

TEST_CASE("all ways of sampling together act in the order of transformers", "[generate]") {
  // Any other order gives other numbers, except that penalty and temperature commute.
  CHECK_THAT(
      probabilities(
          {.temperature = 0.7, .top_k = 6, .top_p = 0.8, .min_p = 0.25, .repetition_penalty = 1.5}),
      AllClose(torch::tensor({{0.2911541, 0.1808489, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5279970},
                              {0.4064026, 0.0, 0.1567988, 0.1989510, 0.0, 0.0, 0.0, 0.2378476}}),
               1e-6));
}

TEST_CASE("generation penalizes the prompt and what it added itself", "[generate]") {
  auto decoder = tiny_decoder(tiny_config());
  const auto prompt = random_tokens(decoder.config(), 2, 3);
  const Sampling sampling{.repetition_penalty = 3};
  auto expected = prompt;
  for (int i = 0; i < 6; ++i) {
    const auto logits = decoder.logits(expected).select(1, -1);
    const auto next = adjusted_logits(logits, expected, sampling).argmax(-1, /*keepdim=*/true);
    expected = torch::cat({expected, next}, 1);
  }
  CHECK(torch::equal(continued(decoder, prompt, 6, sampling, {}), expected));
  CHECK(!torch::equal(continued(decoder, prompt, 6, {}, {}), expected));
}

}  // namespace
}  // namespace regroup
