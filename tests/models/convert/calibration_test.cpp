#include "models/convert/calibration.h"

#include <torch/types.h>

#include "framework/errors/error.h"
#include "framework/functions/cross_entropy.h"
#include "models/convert/convert.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_models.h"
#include "tests/support/token_files.h"

namespace regroup {
namespace {

using testing::random_tokens;
using testing::TempFolder;
using testing::tiny_config;
using testing::tiny_decoder;
using testing::TokenFile;
using testing::write_tiny_model;
using torch::Tensor;

/// A model of four query heads, random text for it, and room for conversions.
struct Scene {
  TempFolder folder;
  Decoder decoder;
  std::filesystem::path text;

  explicit Scene(Decoder model = tiny_decoder(tiny_config({4, 4}), torch::kFloat32),
                 int64_t n_tokens = 2000)
      : decoder(std::move(model)) {
    write_tiny_model(folder / "original", decoder);
    TokenFile file;
    file.vocab_size = decoder.config().vocab_size;
    file.splits = {
        {"train", {random_tokens(decoder.config(), 1, n_tokens).flatten(), {0, n_tokens}, {}}}};
    text = file.write(folder / "text.h5");
  }

  ModelFolder original() const { return ModelFolder::open(folder / "original"); }

  CalibrationText calibration_text(int64_t n_tokens) const {
    return read_calibration_text(TokenData::open(text).split("train"), n_tokens, decoder.config());
  }

  struct Converted {
    ModelFolder model;
    ConversionReport report;
  };
  Converted convert(const ConversionPlan& plan, const char* name = "converted") const {
    std::filesystem::create_directory(folder / name);
    const auto source = original();
    World alone;
    auto report = Conversion(source, plan).write(folder / name, alone);
    return {ModelFolder::open(folder / name), std::move(report)};
  }
};

double held_out_loss(const ModelFolder& folder, const CalibrationText& text) {
  const torch::NoGradGuard no_grad;
  auto model = load_decoder(folder, torch::kFloat32);
  const auto tokens = text.tokens.narrow(0, text.n_windows() - text.n_held_out, text.n_held_out);
  const double scale = 1.0 / static_cast<double>(text.n_held_out * text.positions());
  return model.loss(tokens, scale).item<double>();
}

TEST_CASE("calibration text is windows from all over a split, an eighth held out", "[convert]") {
  const Scene scene;
  const auto text = scene.calibration_text(512);
  CHECK(text.tokens.sizes() == torch::IntArrayRef({16, 33}));
  CHECK(text.n_held_out == 2);
  CHECK(torch::equal(text.tokens, scene.calibration_text(512).tokens));
  int64_t seen = 0;
  for (const auto& chunk : chunks(text)) {
    CHECK(chunk.first == seen);
    CHECK(chunk.held_out == (chunk.first >= 14));
    seen += chunk.n_windows;
  }
  CHECK(seen == 16);
}

TEST_CASE("calibration text that is too short is refused with what is needed", "[convert]") {
  const Scene scene;
  CHECK_THROWS_WITH(scene.calibration_text(60), Contains("60") && Contains("at least 64"));
  CHECK_THROWS_WITH(scene.calibration_text(5000), Contains("5000") && Contains("1984"));
  const Scene sparse(tiny_decoder(tiny_config({4, 4}), torch::kFloat32), 50);
  CHECK_THROWS_WITH(sparse.convert({.n_kv_head = {1}, .calibration = sparse.text}),
                    Contains("/train") && Contains("at least 64"));
}

/// Scaled as the calibration pass gives moments.
Tensor normalised(const Tensor& moment) { return moment / moment.diagonal().mean(); }

TEST_CASE("a layer's input moments are those of its normed inputs and of what heads attend to",
          "[convert]") {
  const Scene scene;
  const auto source = scene.original();
  const auto text = scene.calibration_text(512);
  const auto& config = scene.decoder.config();
  World alone;
  const auto moments = CalibrationPass(source, text, scene.folder.path(), alone).input_moments();
  const auto& attention = config.layer(0).attention;
  const auto wide = [&](const ParameterId& id) {
    return scene.decoder.parameter(id).to(torch::kFloat64);
  };
  const auto stream =
      wide({Role::kEmbedding}).index({text.tokens.narrow(0, 0, 14).narrow(1, 0, 32)});
  const auto rms = (stream.square().mean(-1, true) + config.layer(0).attention_in->eps).sqrt();
  const auto x = stream / rms * wide({Role::kAttentionIn, 0});  // [14, 32, d]
  const auto inputs = x.flatten(0, 1);
  CHECK_THAT(moments.seen, AllClose(normalised(inputs.t().matmul(inputs)), 1e-5, 1e-4));

  const auto heads = [&](Role role) {
    auto rows = x.matmul(wide({role, 0}).t()).unflatten(2, {4, attention.head_dim}).contiguous();
    rotate_(rows, Rope(*attention.rotary, torch::kFloat64).angles(0, 32), 1);
    return rows.transpose(1, 2);
  };
  auto scores = heads(Role::kQuery).matmul(heads(Role::kKey).mT()) /
                std::sqrt(static_cast<double>(attention.head_dim));
  scores = scores.masked_fill(torch::ones({32, 32}, torch::kBool).triu(1), -INFINITY);
  const auto attended = scores.softmax(-1).matmul(x.unsqueeze(1));  // [14, heads, 32, d]
  const auto sized = (attended / stream.norm(2, -1, true).unsqueeze(1)).flatten(0, 2);
  CHECK_THAT(moments.attended, AllClose(normalised(sized.t().matmul(sized)), 1e-5, 1e-4));
  CHECK(torch::equal(moments.seen, moments.seen.t()));
  CHECK(torch::equal(moments.attended, moments.attended.t()));
}

TEST_CASE("activations that are not finite are refused with their layer", "[convert]") {
  Scene scene;
  scene.decoder.parameter({Role::kDown, 0}).fill_(1e30);
  scene.decoder.parameter({Role::kUp, 0}).fill_(1e30);
  write_tiny_model(scene.folder / "original", scene.decoder);
  CHECK_THROWS_WITH(scene.convert({.n_kv_head = {1}, .method = "pca", .calibration = scene.text}),
                    Contains("layer 0") && Contains("not finite"));
}

TEST_CASE("weights that are not finite are refused with their tensor", "[convert]") {
  Scene scene;
  scene.decoder.parameter({Role::kKey, 1})[3][3] = NAN;
  write_tiny_model(scene.folder / "original", scene.decoder);
  CHECK_THROWS_WITH(scene.convert({.n_kv_head = {1}}),
                    Contains("layers.1.self_attn.k_proj.weight") && Contains("not finite"));
}

TEST_CASE("a layer that attends to everything alike has errors that are numbers", "[convert]") {
  Scene scene;
  scene.decoder.parameter({Role::kQuery, 0}).zero_();
  scene.decoder.parameter({Role::kValue, 1}).zero_();
  write_tiny_model(scene.folder / "original", scene.decoder);
  const auto* method = GENERATE("mean", "align", "pca");
  const auto report = scene
                          .convert({.n_kv_head = {1},
                                    .method = method,
                                    .calibration = scene.text,
                                    .calibration_tokens = 512,
                                    .verify = true})
                          .report;
  CHECK(report.layers[0].error->scores == 0);
  CHECK(report.layers[1].error->outputs == 0);
  CHECK(std::isfinite(report.likeness->kl));
}

TEST_CASE("a conversion that keeps all heads keeps the predictions", "[convert]") {
  const Scene scene;
  const auto* method = GENERATE("mean", "first", "align", "pca");
  const auto [model, report] = scene.convert({.n_kv_head = {4},
                                              .method = method,
                                              .calibration = scene.text,
                                              .calibration_tokens = 512,
                                              .verify = true});
  REQUIRE(report.likeness);
  CHECK(report.likeness->kl == Approx(0).margin(1e-9));
  CHECK(report.likeness->agreement == 1);
  CHECK(report.layers.size() == 2);
  CHECK(report.layers[1].error->scores == 0);
  CHECK(report.layers[1].error->outputs == 0);
}

TEST_CASE("streaming a conversion gives the predictions of the model that it writes", "[convert]") {
  const auto dtype = GENERATE(torch::kFloat32, torch::kBFloat16);
  const Scene scene(tiny_decoder(tiny_config({4, 4}), dtype));
  const auto refit = GENERATE(RefitKind::kNone, RefitKind::kOutput, RefitKind::kBlock);
  const auto [model, report] = scene.convert({.n_kv_head = {2, 1},
                                              .method = "pca",
                                              .grouping = Grouping::kSimilar,
                                              .refit = refit,
                                              .calibration = scene.text,
                                              .calibration_tokens = 1024,
                                              .verify = true});
  CHECK(model.dtype() == dtype);
  const auto text = scene.calibration_text(1024);
  CHECK(report.likeness->loss == Approx(held_out_loss(model, text)).epsilon(1e-4));
  CHECK(report.likeness->reference_loss ==
        Approx(held_out_loss(scene.original(), text)).epsilon(1e-4));
  CHECK(report.likeness->kl > 0);
}

TEST_CASE("every refit brings predictions nearer to the original's", "[convert]") {
  const Scene scene;
  const auto kl_with = [&](RefitKind refit, const char* name) {
    return scene
        .convert({.n_kv_head = {1},
                  .method = "pca",
                  .refit = refit,
                  .calibration = scene.text,
                  .calibration_tokens = 1920,
                  .verify = true},
                 name)
        .report.likeness->kl;
  };
  const double none = kl_with(RefitKind::kNone, "none");
  const double output = kl_with(RefitKind::kOutput, "output");
  const double block = kl_with(RefitKind::kBlock, "block");
  CHECK(output < none);
  CHECK(block < output);
}

/// The decoder with its K/V heads and their query heads in another order: the same function.
Decoder with_heads_reordered(const Decoder& decoder, const std::vector<int64_t>& order) {
  Decoder reordered(decoder.config(), decoder.options());
  const auto index = torch::tensor(order, torch::kInt64);
  const int64_t head_dim = decoder.config().layer(0).attention.head_dim;
  for (const auto& block : reordered.block_specs()) {
    for (const auto& [id, spec] : block.parameters) {
      const auto values = decoder.parameter(id);
      if (!id.layer || !is_projection(id, reordered.config().layer(*id.layer).attention)) {
        reordered.parameter(id).copy_(values);
      } else if (id.role == Role::kOutput) {
        const auto heads = values.t().unflatten(0, {-1, head_dim});
        reordered.parameter(id).copy_(heads.index_select(0, index).flatten(0, 1).t());
      } else {
        const auto heads = values.unflatten(0, {-1, head_dim});
        reordered.parameter(id).copy_(heads.index_select(0, index).flatten(0, 1));
      }
    }
  }
  return reordered;
}

TEST_CASE("similar heads are found wherever they stand, and the model stays the same",
          "[convert]") {
  const auto few = tiny_decoder(tiny_config({2, 2}), torch::kFloat32);
  const Scene scene(with_heads_reordered(testing::with_repeated_kv_heads(few, 4), {0, 2, 3, 1}));
  const auto* method = GENERATE("mean", "align", "pca");
  const auto [model, report] = scene.convert({.n_kv_head = {2},
                                              .method = method,
                                              .grouping = Grouping::kSimilar,
                                              .calibration = scene.text,
                                              .calibration_tokens = 512,
                                              .verify = true});
  CHECK(report.layers[0].groups == Partition{{0, 3}, {1, 2}});
  CHECK(report.layers[1].error->scores < 1e-5);
  CHECK(report.layers[1].error->outputs < 1e-5);
  CHECK(report.likeness->kl == Approx(0).margin(1e-7));
  const auto tokens = random_tokens(few.config(), 2, 9);
  auto converted = load_decoder(model, torch::kFloat32);
  auto original = load_decoder(scene.original(), torch::kFloat32);
  CHECK_THAT(converted.logits(tokens), AllClose(original.logits(tokens), 1e-4));
}

TEST_CASE("a budget is spent on the layers that lose most", "[convert]") {
  // Layer 0 needs no more than one head: all its heads are alike.
  auto decoder = tiny_decoder(tiny_config({4, 4}), torch::kFloat32);
  for (const Role role : {Role::kKey, Role::kValue}) {
    const auto heads = decoder.parameter({role, 0}).unflatten(0, {4, -1});
    heads.copy_(heads.select(0, 0).unsqueeze(0).expand_as(heads).clone());
  }
  const Scene scene(std::move(decoder));
  const bool calibrated = GENERATE(false, true);
  ConversionPlan plan{.kv_budget = 5.0 / 8, .method = "pca"};
  if (calibrated) {
    plan.calibration = scene.text;
    plan.calibration_tokens = 512;
  }
  const auto [model, report] = scene.convert(plan);
  CHECK(model.config().n_kv_head() == std::vector<int64_t>{1, 4});
  CHECK(model.provenance().conversion.kv_budget == 5.0 / 8);
}

TEST_CASE("a conversion knows the models that it made", "[convert]") {
  const Scene scene;
  const ConversionPlan plan{.n_kv_head = {2}, .method = "pca", .calibration = scene.text};
  const auto model = scene.convert(plan).model;
  const auto source = scene.original();
  const auto made_by = [&](const ConversionPlan& other) {
    return Conversion(source, other).made(model);
  };
  CHECK(made_by(plan));
  CHECK_FALSE(made_by({.n_kv_head = {1}, .method = "pca", .calibration = scene.text}));
  CHECK_FALSE(made_by({.n_kv_head = {2}, .method = "align", .calibration = scene.text}));
  CHECK_FALSE(made_by({.n_kv_head = {2}, .method = "pca"}));
  CHECK_FALSE(made_by(
      {.n_kv_head = {2}, .method = "pca", .refit = RefitKind::kOutput, .calibration = scene.text}));
  CHECK_FALSE(made_by(
      {.n_kv_head = {2}, .method = "pca", .calibration = scene.text, .calibration_tokens = 512}));
}

TEST_CASE("a conversion is the same every time", "[convert]") {
  const Scene scene;
  const ConversionPlan plan{.n_kv_head = {2},
                            .method = "pca",
                            .grouping = Grouping::kSimilar,
                            .refit = RefitKind::kBlock,
                            .calibration = scene.text,
                            .calibration_tokens = 512};
  CHECK(weights_hash(scene.convert(plan, "once").model) ==
        weights_hash(scene.convert(plan, "again").model));
}

TEST_CASE("a plan that cannot be carried out is refused before any work", "[convert]") {
  const Scene scene;
  const auto source = scene.original();
  const auto refusal = [&](const ConversionPlan& plan) -> std::string {
    try {
      const Conversion conversion(source, plan);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal({}), Contains("kv_budget"));
  CHECK_THAT(refusal({.n_kv_head = {2}, .kv_budget = 0.5}), Contains("exactly one"));
  CHECK_THAT(refusal({.n_kv_head = {3}}), Contains("3 does not divide"));
  CHECK_THAT(refusal({.kv_budget = 0.2}), Contains("0.2") && Contains("0.25"));
  CHECK_THAT(refusal({.n_kv_head = {2}, .refit = RefitKind::kOutput}),
             Contains("refit") && Contains("calibration"));
  CHECK_THAT(refusal({.n_kv_head = {2}, .verify = true}), Contains("verify"));
  TokenFile file;
  file.vocab_size = 1000;
  CHECK_THAT(refusal({.n_kv_head = {2}, .calibration = file.write(scene.folder / "other.h5")}),
             Contains("vocab_size (1000)"));
}

}  // namespace
}  // namespace regroup
