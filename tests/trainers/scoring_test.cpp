#include "trainers/scoring.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_models.h"
#include "tests/support/token_files.h"

namespace regroup {
namespace {

World alone;

using testing::random_tokens;
using testing::tiny_config;
using testing::tiny_decoder;
using torch::Tensor;

/// Documents of 50, 1, 2 and 33 tokens.
struct Documents {
  testing::TempFolder folder;
  Tensor tokens = random_tokens(tiny_config(), 1, 86).flatten();
  std::vector<int64_t> offsets{0, 50, 51, 53, 86};
  TokenData data;

  Documents() : data(write()) {}
  const TokenSplit& split() const { return data.split("val"); }

 private:
  TokenData write() const {
    testing::TokenFile file;
    file.vocab_size = tiny_config().vocab_size;
    file.splits = {{"val", {tokens, offsets, {}}}};
    return TokenData::open(file.write(folder / "data.h5"));
  }
};

/// Log-probabilities of all tokens after the first, [n, vocab_size] for n + 1 tokens.
Tensor log_probabilities(Decoder& model, const Tensor& tokens) {
  const torch::NoGradGuard no_grad;
  const auto inputs = tokens.narrow(0, 0, tokens.size(0) - 1).unsqueeze(0);
  return torch::log_softmax(model.logits(inputs)[0].to(torch::kFloat64), -1);
}

TEST_CASE("a document is scored given all of it that fits the window, each token once",
          "[scoring]") {
  const Documents documents;
  auto model = tiny_decoder(tiny_config());
  const ScoringWindows windows{20, GENERATE(20, 7, 1)};
  const auto scores = score_tokens(model, documents.split(), windows, alone, {});
  REQUIRE(scores.size(0) == 86);
  for (size_t document = 0; document + 1 < documents.offsets.size(); ++document) {
    const int64_t begin = documents.offsets[document], end = documents.offsets[document + 1];
    CHECK(scores[begin].item<float>() == 0);
    for (int64_t position = begin + 1; position < end; ++position) {
      // The earliest window that reaches this token: they start `stride` apart.
      const int64_t beyond = std::max<int64_t>(0, position - begin - windows.window);
      const int64_t first = begin + (beyond + windows.stride - 1) / windows.stride * windows.stride;
      const auto seen = documents.tokens.narrow(0, first, position - first + 1);
      const auto expected = log_probabilities(
          model, seen)[position - first - 1][documents.tokens[position].item<int64_t>()];
      INFO("token " << position << " from " << first);
      CHECK(scores[position].item<double>() == Approx(expected.item<double>()).epsilon(1e-5));
    }
  }
}

TEST_CASE("comparing a model with itself finds no difference, and its score's loss", "[scoring]") {
  const Documents documents;
  auto model = tiny_decoder(tiny_config()), other = tiny_decoder(tiny_config(), torch::kFloat64, 8);
  const ScoringWindows windows{32, 32};
  const auto same = compare_predictions(model, model, documents.split(), windows, alone, {});
  const auto different = compare_predictions(other, model, documents.split(), windows, alone, {});
  const auto loss = [&](Decoder& scored) {
    const auto scores = score_tokens(scored, documents.split(), windows, alone, {});
    return -scores.sum().item<double>() / 82;  // four documents' first tokens are not predicted
  };
  CHECK(same.agreement == 1);
  CHECK(same.kl == Approx(0).margin(1e-6));
  CHECK(same.loss == Approx(loss(model)).epsilon(1e-5));
  CHECK(different.loss == Approx(loss(other)).epsilon(1e-5));
  CHECK(different.reference_loss == Approx(loss(model)).epsilon(1e-5));
  CHECK(different.agreement < 1);
  CHECK(different.kl > 0.01);
}

TEST_CASE("the loss of packed windows is their cross-entropy in training", "[scoring]") {
  const Documents documents;
  auto model = tiny_decoder(tiny_config());
  Batches windows(documents.split(), 10, std::nullopt);
  const auto tokens = windows.gather(0, 6);
  const double expected = model.loss(tokens, 1.0 / 60).item<double>();
  CHECK(window_loss(model, windows, 3, 2, alone) == Approx(expected).epsilon(1e-6));
  CHECK(window_loss(model, windows, 2, 3, alone) == Approx(expected).epsilon(1e-6));
}

}  // namespace
}  // namespace regroup
