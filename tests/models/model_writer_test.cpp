#include "models/model_writer.h"

#include <torch/types.h>

#include <nlohmann/json.hpp>

#include "models/model_folder.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;
using testing::tiny_config;
using testing::tiny_decoder;
using testing::write_tiny_model;

TEST_CASE("a model that was written reads back bit for bit", "[hf]") {
  const TempFolder folder;
  const auto dtype = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat16);
  const int64_t shard_bytes = GENERATE(2000, 1'000'000);
  auto config = tiny_config(
      GENERATE(std::vector<int64_t>{4, 4}, std::vector<int64_t>{4, 1}, std::vector<int64_t>{1, 2}));
  config.head.tied = GENERATE(false, true);
  const auto decoder = tiny_decoder(config, dtype);
  write_model(folder.path(), {&families().front(), config, dtype, {}, {}},
              parameter_sources(decoder), shard_bytes);
  CHECK(fs::exists(folder / "model.safetensors.index.json") == (shard_bytes == 2000));
  const auto opened = ModelFolder::open(folder.path());
  CHECK(opened.config() == config);
  CHECK(opened.dtype() == dtype);
  const auto loaded = load_decoder(opened, dtype);
  for (size_t i = 0; i < decoder.blocks().size(); ++i) {
    CHECK(torch::equal(loaded.blocks()[i].flat(), decoder.blocks()[i].flat()));
  }
}

TEST_CASE("every number of a config survives writing and reading", "[hf]") {
  const TempFolder folder;
  auto config = testing::with_scaling(
      tiny_config(),
      GENERATE(RopeScaling{RopeScaling::Kind::kLinear, 2.5},
               RopeScaling{RopeScaling::Kind::kLlama3, 8, 1.5, 4.5, 77}, RopeScaling{}));
  config.final_norm->eps = 3e-7;
  for (auto& layer : config.layers) {
    layer.attention_in->eps = layer.mlp_in->eps = 3e-7;
    layer.attention.rotary->theta = 123456.5;
  }
  write_tiny_model(folder.path(), tiny_decoder(config, torch::kFloat32));
  CHECK(ModelFolder::open(folder.path()).config() == config);
}

TEST_CASE("what made a model survives writing and reading", "[hf]") {
  const TempFolder folder;
  const auto decoder = tiny_decoder(tiny_config(), torch::kFloat32);
  Provenance provenance;
  provenance.original = Provenance::Original{"llama", "0123456789abcdef", {4, 4}};
  provenance.conversion.method = "mean";
  provenance.pretrain_steps = 1000;
  provenance.uptrain_steps = 50;
  provenance.tokens_seen = 12345;
  provenance.pretrain_flops = 1.5e20;
  provenance.uptrain_flops = 2.5e18;
  write_model(folder.path(),
              {&families().front(), decoder.config(), torch::kFloat32, provenance, {}},
              parameter_sources(decoder), kDefaultShardBytes);
  const auto found = ModelFolder::open(folder.path()).provenance();
  CHECK(found.to_json(decoder.config()) == provenance.to_json(decoder.config()));
}

}  // namespace
}  // namespace regroup
