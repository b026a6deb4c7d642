#include "models/convert/refit.h"

#include <torch/types.h>

#include "models/layers/decoder_layer.h"
#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using testing::random_tokens;
using testing::seeded_randn;
using testing::tiny_config;
using testing::tiny_decoder;
using torch::Tensor;

constexpr int64_t kInputs = 6, kOutputs = 4;

struct Sample {
  Tensor heads, residual;
};

/// Tokens whose residual is change applied to the heads' output, and noise.
Sample sample(int64_t n, const Tensor& change, double noise, uint64_t seed) {
  const auto heads = seeded_randn({n, kInputs}, seed);
  return {heads, heads.matmul(change.t()) + noise * seeded_randn({n, kOutputs}, seed + 100)};
}

RegressionSums sums_of(const Sample& sample) {
  RegressionSums sums(kInputs, kOutputs);
  sums.add(sample.heads.narrow(0, 0, 5), sample.residual.narrow(0, 0, 5));
  const int64_t rest = sample.heads.size(0) - 5;
  sums.add(sample.heads.narrow(0, 5, rest), sample.residual.narrow(0, 5, rest));
  return sums;
}

TEST_CASE("regression sums give the error of a change", "[convert]") {
  const auto data = sample(40, seeded_randn({kOutputs, kInputs}, 1), 0.5, 2);
  const auto change = seeded_randn({kOutputs, kInputs}, 3);
  const auto error = (data.residual - data.heads.matmul(change.t())).square().sum() / 40;
  CHECK(sums_of(data).mean_error(change) == Approx(error.item<double>()));
}

TEST_CASE("a refit takes the strongest regularisation that keeps most of what can be won",
          "[convert]") {
  const auto change = seeded_randn({kOutputs, kInputs}, 1);
  const auto fit = sums_of(sample(400, change, 0, 2)), held_out = sums_of(sample(60, change, 0, 3));
  const auto refit = refit_output(fit, held_out);
  const auto error_at = [&](double strength) {
    const auto lambda = strength * fit.heads_moment.diagonal().mean();
    const auto regularised = fit.heads_moment + lambda * torch::eye(kInputs, torch::kFloat64);
    return held_out.mean_error(torch::linalg_solve(regularised, fit.product).t());
  };
  const double before = held_out.mean_error(torch::zeros_like(change));
  REQUIRE(refit.strength < 3);
  CHECK(held_out.mean_error(refit.change) == Approx(error_at(refit.strength)));
  CHECK(before - error_at(refit.strength) >= 0.9 * (before - error_at(1e-4)));
  CHECK(before - error_at(refit.strength * 3.5) < 0.9 * (before - error_at(1e-4)));
}

TEST_CASE("a refit is the ridge solution of its strength", "[convert]") {
  const auto change = seeded_randn({kOutputs, kInputs}, 1);
  const auto fit = sums_of(sample(30, change, 2.0, 2));
  const auto refit = refit_output(fit, sums_of(sample(60, change, 2.0, 3)));
  REQUIRE(refit.strength > 0);
  const auto lambda = refit.strength * fit.heads_moment.diagonal().mean();
  // Where the gradient of sum ||r - Δ a||² + λ ||Δ||² vanishes.
  const auto gradient =
      refit.change.matmul(fit.heads_moment) - fit.product.t() + lambda * refit.change;
  CHECK_THAT(gradient, AllClose(torch::zeros_like(gradient), 1e-9));
}

TEST_CASE("a refit that does not better held-out text changes nothing", "[convert]") {
  // Few tokens of noise to fit, and held-out text that says the opposite of them.
  const auto change = seeded_randn({kOutputs, kInputs}, 1);
  const auto refit =
      refit_output(sums_of(sample(20, change, 0, 2)), sums_of(sample(60, -change, 0, 3)));
  CHECK(refit.strength == 0);
  CHECK(refit.change.abs().max().item<double>() == 0);
}

/// A layer that is to do what a layer with other projections does, over random text.
struct LayerTask {
  DecoderConfig config = tiny_config({2, 2});
  Decoder decoder = tiny_decoder(config, torch::kFloat32);
  CalibrationText text{random_tokens(config, 40, 17), 10};
  World alone;
  AttentionTask task;

  LayerTask()
      : task{config,
             0,
             text,
             {},
             {},
             {},
             Rope(*config.layer(0).attention.rotary, torch::kFloat32).angles(0, 16),
             alone} {
    auto other = tiny_decoder(config, torch::kFloat32, /*seed=*/4);
    task.stream = seeded_randn({40 * 16, config.d_model}).to(torch::kFloat32);
    const auto layer = decoder_layer(config, 0, other.blocks()[1]);
    task.targets = layer.after_attention(task.stream, 40, task.angles);
  }
};

TEST_CASE("refitting a layer brings its output nearer and changes only its projections",
          "[convert]") {
  LayerTask layer;
  auto& block = layer.decoder.blocks()[1];
  const auto before = block.flat().clone();
  const auto none = refit_attention(block, layer.task, RefitKind::kNone);
  CHECK(torch::equal(block.flat(), before));
  CHECK(none.error_after == none.error_before);

  const auto output = refit_attention(block, layer.task, RefitKind::kOutput);
  CHECK(output.error_before == Approx(none.error_before).epsilon(1e-4));
  CHECK(output.error_after < 0.9 * output.error_before);
  CHECK(refit_attention(block, layer.task, RefitKind::kNone).error_before ==
        Approx(output.error_after).epsilon(1e-3));
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    const auto values = before.narrow(0, block.offset(i), block.parameter(i).numel());
    const bool refitted = block.parameters()[i].name.ends_with(".o_proj.weight");
    CHECK(torch::equal(block.parameter(i).flatten(), values) == !refitted);
  }

  block.flat().copy_(before);
  const auto trained = refit_attention(block, layer.task, RefitKind::kBlock);
  CHECK(trained.error_after < output.error_after);
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    const auto values = before.narrow(0, block.offset(i), block.parameter(i).numel());
    const bool refitted = block.parameters()[i].name.find("_proj") != std::string::npos &&
                          block.parameters()[i].name.find(".attention.") != std::string::npos;
    CHECK(torch::equal(block.parameter(i).flatten(), values) == !refitted);
  }
}

}  // namespace
}  // namespace regroup
