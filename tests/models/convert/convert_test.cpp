#include "models/convert/convert.h"
#include "models/run_layout.h"

#include <torch/types.h>

#include "framework/errors/error.h"
#include "framework/files/tensor_folder.h"
#include "models/convert/pool_layer.h"
#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using testing::random_tokens;
using testing::seeded_randn;
using testing::TempFolder;
using testing::tiny_config;
using testing::tiny_decoder;
using testing::with_repeated_kv_heads;
using testing::write_tiny_model;
using torch::Tensor;

constexpr int64_t kHeadDim = 3, kDModel = 5;

LayerProjections random_layer(int64_t n_head, int64_t n_kv_head,
                              torch::ScalarType dtype = torch::kFloat32) {
  const auto weight = [&](int64_t rows, int64_t columns, uint64_t seed) {
    return seeded_randn({rows, columns}, seed).to(dtype);
  };
  return {{n_head, n_kv_head, kHeadDim},
          /*rotary_dim=*/2,
          weight(n_head * kHeadDim, kDModel, 1),
          weight(n_kv_head * kHeadDim, kDModel, 2),
          weight(n_kv_head * kHeadDim, kDModel, 3),
          weight(kDModel, n_head * kHeadDim, 4)};
}

LayerProjections pooled_layer(const char* method, const LayerProjections& layer, int64_t n_kv_head,
                              const MethodContext& context = {}) {
  return pool_layer(layer, neighbouring_heads(layer.shape.n_kv_head, n_kv_head),
                    conversion_method(method), context);
}

void write_converted(const ModelFolder& source, const ConversionPlan& plan,
                     const std::filesystem::path& folder) {
  std::filesystem::create_directory(folder);
  World alone;
  Conversion(source, plan).write(folder, alone);
}

/// Pooling written out: every number of every new head by itself.
Tensor plain_mean(const Tensor& weight, int64_t n_kv_head) {
  const int64_t group_size = weight.size(0) / kHeadDim / n_kv_head;
  auto pooled = torch::zeros({n_kv_head * kHeadDim, weight.size(1)}, torch::kFloat64);
  for (int64_t g = 0; g < n_kv_head; ++g) {
    for (int64_t i = 0; i < kHeadDim; ++i) {
      for (int64_t j = 0; j < group_size; ++j) {
        pooled[g * kHeadDim + i] +=
            weight[(g * group_size + j) * kHeadDim + i].to(torch::kFloat64) / group_size;
      }
    }
  }
  return pooled.to(weight.scalar_type());
}

TEST_CASE("mean pooling equals a plain loop for every number of heads", "[convert]") {
  const auto dtype = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat16);
  for (const int64_t before : {1, 2, 4, 6, 12}) {
    for (int64_t after = 1; after <= before; ++after) {
      if (before % after != 0) continue;
      const auto layer = random_layer(12, before, dtype);
      const auto pooled = pooled_layer("mean", layer, after);
      CHECK(pooled.shape.n_kv_head == after);
      CHECK_THAT(pooled.k_proj, AllClose(plain_mean(layer.k_proj, after), 1e-7,
                                         dtype == torch::kFloat32 ? 1e-6 : 0.01));
      CHECK_THAT(pooled.v_proj, AllClose(plain_mean(layer.v_proj, after), 1e-7,
                                         dtype == torch::kFloat32 ? 1e-6 : 0.01));
      CHECK_THAT(pooled.q_proj, AllClose(layer.q_proj));
      CHECK_THAT(pooled.o_proj, AllClose(layer.o_proj));
    }
  }
}

TEST_CASE("each projection keeps its dtype, and queries and outputs their bits", "[convert]") {
  auto layer = random_layer(4, 4, torch::kBFloat16);
  layer.o_proj = seeded_randn(layer.o_proj.sizes().vec(), 5).to(torch::kFloat32);
  const Partition partition{{0, 2}, {1, 3}};
  const auto heads = [](const Tensor& rows) {  // in the partition's order
    return rows.unflatten(0, {2, 2, kHeadDim}).transpose(0, 1).flatten(0, 2);
  };
  for (const char* method : {"mean", "first", "random"}) {
    const auto pooled = pool_layer(layer, partition, conversion_method(method), {});
    CHECK(pooled.k_proj.scalar_type() == torch::kBFloat16);
    CHECK(pooled.v_proj.scalar_type() == torch::kBFloat16);
    CHECK(torch::equal(pooled.q_proj, heads(layer.q_proj)));
    CHECK(torch::equal(pooled.o_proj, heads(layer.o_proj.t()).t()));
  }
  const auto turned = pool_layer(layer, partition, conversion_method("pca"), {});
  CHECK(turned.q_proj.scalar_type() == torch::kBFloat16);
  CHECK(turned.o_proj.scalar_type() == torch::kFloat32);
}

TEST_CASE("pooling in two steps equals pooling in one", "[convert]") {
  const auto layer = random_layer(12, 12);
  const auto once = pooled_layer("mean", layer, 2),
             twice = pooled_layer("mean", pooled_layer("mean", layer, 6), 2);
  CHECK_THAT(twice.k_proj, AllClose(once.k_proj, 1e-6));
  CHECK_THAT(pooled_layer("first", pooled_layer("first", layer, 6), 2).v_proj,
             AllClose(pooled_layer("first", layer, 2).v_proj));
}

TEST_CASE("the mean of identical heads is that head bit for bit", "[convert]") {
  const auto dtype = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat16);
  const int64_t copies = GENERATE(1, 2, 3, 7, 12);
  const int64_t n_few = 12 / copies;
  const auto few = random_layer(n_few * copies, n_few, dtype);
  auto many = few;
  const auto repeat = [&](const Tensor& weight) {
    return weight.unflatten(0, {-1, kHeadDim}).repeat_interleave(copies, 0).flatten(0, 1);
  };
  many.shape.n_kv_head *= copies;
  many.k_proj = repeat(few.k_proj);
  many.v_proj = repeat(few.v_proj);
  const auto pooled = pooled_layer("mean", many, few.shape.n_kv_head);
  CHECK(torch::equal(pooled.k_proj, few.k_proj));
  CHECK(torch::equal(pooled.v_proj, few.v_proj));
}

TEST_CASE("first keeps the first head of each group", "[convert]") {
  const auto layer = random_layer(6, 6);
  const auto pooled = pooled_layer("first", layer, 2);
  const auto kept = [&](const Tensor& weight) {
    return torch::cat({weight.narrow(0, 0, kHeadDim), weight.narrow(0, 3 * kHeadDim, kHeadDim)});
  };
  CHECK(torch::equal(pooled.k_proj, kept(layer.k_proj)));
  CHECK(torch::equal(pooled.v_proj, kept(layer.v_proj)));
}

TEST_CASE("random heads have the source's scale and depend on seed and layer", "[convert]") {
  auto layer = random_layer(256, 256);
  layer.k_proj = layer.k_proj * 0.02;
  const auto drawn = pooled_layer("random", layer, 128, {.seed = 7, .layer = 3});
  CHECK(drawn.k_proj.sizes() == torch::IntArrayRef({128 * kHeadDim, kDModel}));
  CHECK(drawn.k_proj.std().item<double>() == Approx(0.02).epsilon(0.1));
  CHECK(drawn.v_proj.std().item<double>() == Approx(1).epsilon(0.1));
  CHECK(std::abs(drawn.v_proj.mean().item<double>()) < 0.1);
  CHECK(torch::equal(pooled_layer("random", layer, 128, {.seed = 7, .layer = 3}).k_proj,
                     drawn.k_proj));
  CHECK_FALSE(torch::equal(pooled_layer("random", layer, 128, {.seed = 8, .layer = 3}).k_proj,
                           drawn.k_proj));
  CHECK_FALSE(torch::equal(pooled_layer("random", layer, 128, {.seed = 7, .layer = 4}).k_proj,
                           drawn.k_proj));
  CHECK_FALSE(torch::allclose(drawn.k_proj / 0.02, drawn.v_proj, 0.1, 0.1));
}

TEST_CASE("an unknown method is refused with the known ones", "[convert]") {
  CHECK_THROWS_WITH(conversion_method("median"),
                    Contains("\"median\"") && Contains("mean, first, random"));
  CHECK(conversion_method("mean").pool == mean_heads);
}

TEST_CASE("converted heads must divide what each layer has", "[convert]") {
  const auto config = tiny_config({6, 3}, 6);
  CHECK(converted_config(config, {3}).n_kv_head() == std::vector<int64_t>{3, 3});
  CHECK(converted_config(config, {2, 1}).n_kv_head() == std::vector<int64_t>{2, 1});
  CHECK_THROWS_WITH(converted_config(config, {4}),
                    Contains("4 does not divide the 6 K/V heads that layer 0 has") &&
                        Contains("Choose one of 1, 2, 3, 6."));
  CHECK_THROWS_WITH(converted_config(config, {6}),
                    Contains("6 does not divide the 3 K/V heads that layer 1 has") &&
                        Contains("Choose one of 1, 3."));
  CHECK_THROWS_WITH(converted_config(config, {2}),
                    Contains("2 does not divide the 3 K/V heads that layer 1 has"));
  CHECK_THROWS_WITH(converted_config(config, {1, 1, 1}), Contains("3 numbers for 2 layers"));
  CHECK_THROWS_WITH(converted_config(config, {0}), Contains("0 does not divide the 6 K/V heads"));
  CHECK_THROWS_WITH(converted_config(config, {-2}), Contains("-2 does not divide the 6 K/V heads"));
}

TEST_CASE("a conversion leaves everything but keys and values bit for bit", "[convert]") {
  const TempFolder folder;
  const auto dtype = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat16);
  write_tiny_model(folder / "mha", tiny_decoder(tiny_config({4, 4}), dtype));
  folder.write("mha/tokenizer.json", "{}");
  const auto source = ModelFolder::open(folder / "mha");
  write_converted(source, {.n_kv_head = {2, 1}}, folder / "gqa");

  const auto converted = ModelFolder::open(folder / "gqa");
  CHECK(converted.dtype() == dtype);
  CHECK(converted.config() == converted_config(source.config(), {2, 1}));
  CHECK(converted.provenance().conversion.method == "mean");
  CHECK(converted.provenance().original->name == "mha");
  CHECK(converted.provenance().original->hash == weights_hash(source));
  CHECK(converted.provenance().original->n_kv_head == std::vector<int64_t>{4, 4});
  CHECK(testing::contents_of(folder / "gqa" / "tokenizer.json") == "{}");
  for (const auto& block : decoder_blocks(source.config())) {
    for (const auto& [id, spec] : block.parameters) {
      const auto before = source.parameter(id), after = converted.parameter(id);
      const bool pooled = id.role == Role::kKey || id.role == Role::kValue;
      INFO(spec.name);
      CHECK((before.sizes() == after.sizes() && torch::equal(before, after)) == !pooled);
    }
  }
}

TEST_CASE("a model whose groups hold identical heads keeps its logits when it is converted",
          "[convert]") {
  const TempFolder folder;
  const std::string method = GENERATE("mean", "first");
  const auto n_kv_head =
      GENERATE(std::vector<int64_t>{1, 1}, std::vector<int64_t>{2, 2}, std::vector<int64_t>{2, 1});
  const auto gqa = tiny_decoder(tiny_config(n_kv_head), torch::kFloat32);
  auto mha = with_repeated_kv_heads(gqa, 4);
  write_tiny_model(folder / "mha", mha);
  write_converted(ModelFolder::open(folder / "mha"), {.n_kv_head = n_kv_head, .method = method},
                  folder / "gqa");
  auto converted = load_decoder(ModelFolder::open(folder / "gqa"), torch::kFloat32);
  for (size_t i = 0; i < gqa.blocks().size(); ++i) {
    CHECK(torch::equal(converted.blocks()[i].flat(), gqa.blocks()[i].flat()));
  }
  const auto tokens = random_tokens(mha.config(), 2, 7);
  CHECK_THAT(converted.logits(tokens), AllClose(mha.logits(tokens), 1e-5));
}

TEST_CASE("a model goes by its folder's name or its run's", "[convert]") {
  CHECK(model_name("/models/llama") == "llama");
  CHECK(model_name("/models/llama/") == "llama");
  CHECK(model_name("/runs/gqa/final") == "gqa");
  CHECK(model_name("/runs/gqa/converted") == "gqa");
  CHECK(model_name("/runs/gqa/checkpoints/step_00000010") == "gqa");
}

}  // namespace
}  // namespace regroup
