#include "models/model_folder.h"

#include <torch/types.h>

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/files/safetensors.h"
#include "models/families/family.h"
#include "models/layers/rope.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::TempFolder;
using testing::tiny_config;
using testing::tiny_decoder;
using testing::with_scaling;
using testing::write_tiny_model;

/// A tiny model's folder whose config.json and tensors a test may damage.
class DamagedModel {
 public:
  explicit DamagedModel(const DecoderConfig& config = tiny_config()) {
    write_tiny_model(folder_.path(), tiny_decoder(config, torch::kFloat32));
    config_json = read_json_file(folder_ / "config.json");
    const auto tensors = TensorFolder::open(folder_.path());
    for (const auto& name : tensors.names()) tensors_[name] = tensors.tensor(name).clone();
  }

  const TempFolder& folder() const { return folder_; }
  torch::Tensor& tensor(const std::string& name) { return tensors_[name]; }
  void drop_tensor(const std::string& name) { tensors_.erase(name); }
  ModelFolder open() const {
    folder_.write("config.json", config_json.dump());
    std::vector<TensorSource> sources;
    for (const auto& [name, values] : tensors_) sources.push_back(tensor_source(name, values));
    write_safetensors(folder_ / "model.safetensors", sources);
    return ModelFolder::open(folder_.path());
  }

  json config_json;

 private:
  TempFolder folder_;
  std::map<std::string, torch::Tensor> tensors_;
};

TEST_CASE("both dialects of config.json are read", "[hf]") {
  DamagedModel model;
  const bool old_dialect = GENERATE(true, false);
  auto& config = model.config_json;
  config["rope_theta"] = 500.0;
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  config["rope_parameters"] = {{"rope_theta", 500.0}, {"rope_type", "linear"}, {"factor", 2.0}};
  if (old_dialect) {
    config.erase("rope_parameters");
    config["rope_scaling"] = {{"type", "linear"},
                              {"factor", 2.0}};  // as older files still spell it
  } else {
    config.erase("rope_theta");
    config.erase("rope_scaling");
  }
  const auto found = model.open().config().layer(1).attention.rotary.value();
  CHECK(found.theta == 500);
  CHECK(found.scaling.kind == RopeScaling::Kind::kLinear);
  CHECK(found.scaling.factor == 2);
}

TEST_CASE("dialects that contradict each other are refused", "[hf]") {
  DamagedModel model;
  SECTION("theta") { model.config_json["rope_theta"] = 501.0; }
  SECTION("scaling in the old one only") {
    model.config_json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  }
  SECTION("other factors") {
    model.config_json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
    model.config_json["rope_parameters"] = {
        {"rope_theta", 500.0}, {"rope_type", "linear"}, {"factor", 3.0}};
  }
  CHECK_THROWS_WITH(model.open(),
                    Contains("config.json") && Contains("rope_parameters contradicts"));
}

TEST_CASE("rope_theta may stand in rope_scaling alone, as transformers 5 reads it", "[hf]") {
  DamagedModel model;
  auto& config = model.config_json;
  config.erase("rope_parameters");
  config["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", 700.0}};
  SECTION("and beside it, the same") { config["rope_theta"] = 700.0; }
  SECTION("alone") { config.erase("rope_theta"); }
  SECTION("and beside it, another") {
    config["rope_theta"] = 701.0;
    CHECK_THROWS_WITH(model.open(), Contains("rope_scaling contradicts"));
    return;
  }
  CHECK(model.open().config().layer(0).attention.rotary->theta == 700);
}

TEST_CASE("the original context of llama3 scaling stands in three places", "[hf]") {
  DamagedModel model;
  auto& config = model.config_json;
  config.erase("rope_parameters");
  config["max_position_embeddings"] = 64;
  json scaling = {{"rope_type", "llama3"},
                  {"factor", 8},
                  {"low_freq_factor", 1},
                  {"high_freq_factor", 4},
                  {"original_max_position_embeddings", 32}};
  const auto found = [&] {
    config["rope_scaling"] = scaling;
    return model.open().config().layer(0).attention.rotary->scaling.original_max_seq_len;
  };
  CHECK(found() == 32);
  config["original_max_position_embeddings"] = 16;
  CHECK_THROWS_WITH(found(), Contains("original_max_position_embeddings"));
  scaling.erase("original_max_position_embeddings");
  CHECK(found() == 16);
  config.erase("original_max_position_embeddings");
  CHECK(found() == 64);
}

TEST_CASE("fields that change the computation and are not implemented are refused", "[hf]") {
  DamagedModel model;
  const auto [key, value] =
      GENERATE(table<std::string, std::string>({{"hidden_act", "\"mish\""},
                                                {"partial_rotary_factor", "0.5"},
                                                {"quantization_config", "{\"bits\":4}"},
                                                {"sliding_window", "4096"},
                                                {"per_layer_config", "{\"1\":{}}"}}));
  model.config_json[key] = json::parse(value);
  CHECK_THROWS_WITH(model.open(), Contains("config.json") && Contains(key));
}

TEST_CASE("a kind of rope scaling that is not implemented is refused with the known ones", "[hf]") {
  DamagedModel model;
  model.config_json.erase("rope_scaling");
  model.config_json["rope_parameters"] = {
      {"rope_theta", 500.0}, {"rope_type", "proportional"}, {"factor", 2.0}};
  CHECK_THROWS_WITH(model.open(), Contains("rope_parameters.rope_type is \"proportional\"") &&
                                      Contains("default, linear, dynamic, llama3"));
}

TEST_CASE("config numbers that make no model are refused with the key", "[hf]") {
  DamagedModel model;
  const auto [key, value, complaint] = GENERATE(table<std::string, std::string, std::string>(
      {{"num_key_value_heads", "3",
        "num_key_value_heads (3) does not divide num_attention_heads (4)"},
       {"num_attention_heads", "0", "num_attention_heads is 0"},
       {"hidden_size", "-10", "hidden_size is -10"},
       {"hidden_size", "\"10\"", "hidden_size is \"10\""},
       {"hidden_size", "null", "hidden_size"},
       {"vocab_size", "1e300", "vocab_size"},
       {"num_hidden_layers", "2000000000", "num_hidden_layers"},
       {"rms_norm_eps", "-1.0", "norm_eps is -1"},
       {"head_dim", "5", "head_dim (5) is odd"},
       {"model_type", "\"mamba\"", "\"mamba\" is not a family"},
       {"tie_word_embeddings", "1", "tie_word_embeddings is 1"}}));
  model.config_json[key] = json::parse(value);
  CHECK_THROWS_WITH(model.open(), Contains("config.json") && Contains(complaint));
}

TEST_CASE("missing and misshapen and extra tensors are all reported at once", "[hf]") {
  DamagedModel model;
  model.drop_tensor("model.layers.1.mlp.up_proj.weight");
  model.tensor("model.norm.weight") = torch::ones({11});
  model.tensor("model.layers.0.self_attn.q_proj.bias") = torch::ones({24});
  model.tensor("lm_head.weight") = torch::ones({23, 10}, torch::kInt64);
  CHECK_THROWS_WITH(
      model.open(),
      Contains("4 problems") &&
          Contains("missing tensor model.layers.1.mlp.up_proj.weight [14, 10]") &&
          Contains("tensor model.norm.weight has shape [11], config.json makes it [10]") &&
          Contains("model.layers.0.self_attn.q_proj.bias has no place") &&
          Contains("lm_head.weight is") && Contains("expected floating point"));
}

TEST_CASE("buffers that real folders hold are passed over", "[hf]") {
  DamagedModel model;
  const auto frequencies =
      rope_frequencies(*tiny_config().layer(0).attention.rotary, 1, torch::kFloat32);
  model.tensor("model.layers.0.self_attn.rotary_emb.inv_freq") = frequencies;
  model.tensor("model.layers.1.self_attn.rotary_emb.inv_freq") = frequencies;
  CHECK_NOTHROW(model.open());
  model.tensor("model.layers.x.self_attn.rotary_emb.inv_freq") = torch::ones({3});
  CHECK_THROWS_WITH(model.open(),
                    Contains("model.layers.x.self_attn.rotary_emb.inv_freq has no place"));
}

TEST_CASE("a stored buffer agrees with config.json in any precision", "[hf]") {
  const auto config = with_scaling(
      tiny_config(), GENERATE(RopeScaling{}, RopeScaling{RopeScaling::Kind::kLinear, 2.5},
                              RopeScaling{RopeScaling::Kind::kLlama3, 8, 1.5, 4.5, 77}));
  const auto dtype = GENERATE(torch::kFloat64, torch::kFloat32, torch::kBFloat16, torch::kFloat16);
  const auto* buffer = families().front().buffer("model.rotary_emb.inv_freq");
  REQUIRE(buffer);
  const auto stored = rope_frequencies(*config.layer(0).attention.rotary, 1, torch::kFloat64);
  CHECK(buffer->agrees(config, stored.to(dtype)));
  CHECK_FALSE(buffer->agrees(config, (stored * 1.05).to(dtype)));
  CHECK_FALSE(buffer->agrees(config, stored.narrow(0, 0, 2).to(dtype)));
  CHECK_FALSE(buffer->agrees(config, stored.to(torch::kInt64)));
}

TEST_CASE("frequencies before a linear scaling agree with it too", "[hf]") {
  const auto plain = rope_frequencies(*tiny_config().layer(0).attention.rotary, 1, torch::kFloat32);
  const auto* buffer = families().front().buffer("model.layers.0.self_attn.rotary_emb.inv_freq");
  REQUIRE(buffer);
  const RopeScaling linear{RopeScaling::Kind::kLinear, 2.5};
  CHECK(buffer->agrees(with_scaling(tiny_config(), linear), plain));
  const RopeScaling llama3{RopeScaling::Kind::kLlama3, 8, 1.5, 4.5, 77};
  CHECK_FALSE(buffer->agrees(with_scaling(tiny_config(), llama3), plain));
}

TEST_CASE("a head that differs from the embedding unties a model that config.json ties", "[hf]") {
  auto config = tiny_config();
  config.head.tied = true;
  DamagedModel model(config);
  auto& head = model.tensor("lm_head.weight");
  head = model.tensor("model.embed_tokens.weight").clone();
  CHECK(model.open().config().head.tied);
  head = head.to(torch::kFloat64);
  CHECK(model.open().config().head.tied);
  head[22][9] += 1;
  CHECK_FALSE(model.open().config().head.tied);
  CHECK(torch::equal(load_decoder(model.open(), torch::kFloat64).parameter({Role::kHead}), head));
  head = head.narrow(0, 0, 22).contiguous();
  CHECK_THROWS_WITH(model.open(), Contains("lm_head.weight has shape [22, 10]"));
}

TEST_CASE("the head of a tied model is passed over and that of an untied one is needed", "[hf]") {
  auto config = tiny_config();
  config.head.tied = true;
  DamagedModel model(config);
  model.tensor("lm_head.weight") = model.tensor("model.embed_tokens.weight").clone();
  CHECK_NOTHROW(model.open());
  model.drop_tensor("lm_head.weight");
  model.config_json["tie_word_embeddings"] = false;
  CHECK_THROWS_WITH(model.open(), Contains("missing tensor lm_head.weight"));
}

TEST_CASE("K/V heads by layer that do not fit the config are refused", "[hf]") {
  DamagedModel model(tiny_config({2, 1}));
  CHECK(model.config_json["num_key_value_heads"] == 2);
  CHECK_NOTHROW(model.open());
  auto& counts = model.config_json["regroup"]["n_kv_head"];
  SECTION("another least common multiple") {
    counts = {1, 1};
    CHECK_THROWS_WITH(model.open(), Contains("num_key_value_heads is 2") && Contains("(1)") &&
                                        Contains("multiple 1"));
  }
  SECTION("too few layers") {
    counts = json::array({4});
    CHECK_THROWS_WITH(model.open(),
                      Contains("regroup.n_kv_head") && Contains("1 numbers for 2 layers"));
  }
  SECTION("no divisor") {
    counts = {4, 3};
    CHECK_THROWS_WITH(model.open(), Contains("n_kv_head (3) does not divide n_head (4)"));
  }
  SECTION("heads that the tensors do not have") {
    counts = {2, 2};
    CHECK_THROWS_WITH(model.open(), Contains("layers.1.self_attn.k_proj.weight has shape [6, 10]"));
  }
}

TEST_CASE("a folder of pickles is refused as a model", "[hf]") {
  const DamagedModel model;
  fs::remove(model.folder() / "model.safetensors");
  model.folder().write("pytorch_model.bin", "PK");
  CHECK_THROWS_WITH(ModelFolder::open(model.folder().path()), Contains("pytorch_model.bin"));
}

TEST_CASE("a folder that holds something else than a model says what", "[hf]") {
  DamagedModel model;
  SECTION("an adapter") {
    fs::remove(model.folder() / "config.json");
    model.folder().write("adapter_config.json", "{}");
    CHECK_THROWS_WITH(ModelFolder::open(model.folder().path()), Contains("merge_and_unload"));
  }
  SECTION("weights under other names") {
    fs::rename(model.folder() / "model.safetensors", model.folder() / "model.fp16.safetensors");
    CHECK_THROWS_WITH(ModelFolder::open(model.folder().path()),
                      Contains("only model.fp16.safetensors"));
  }
  SECTION("quantized weights") {
    model.config_json["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
    CHECK_THROWS_WITH(model.open(), Contains("quantized (gptq)"));
  }
}

TEST_CASE("a repository in the Hub's cache means its main snapshot", "[hf]") {
  const DamagedModel model;
  const TempFolder cache;
  const auto repository = cache / "models--ai--tiny";
  fs::create_directories(repository / "refs");
  fs::create_directories(repository / "snapshots/abc");
  cache.write("models--ai--tiny/refs/main", "abc");
  CHECK_THROWS_WITH(ModelFolder::open(repository), Contains("holds no config.json"));
  fs::copy(model.folder().path(), repository / "snapshots/abc");
  CHECK(ModelFolder::open(repository).path() == repository / "snapshots/abc");
  cache.write("models--ai--tiny/refs/main", "../snapshots/abc");
  CHECK_THROWS_WITH(ModelFolder::open(repository), Contains("holds no config.json"));
}

TEST_CASE("a folder that is no model says what is missing", "[hf]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(ModelFolder::open(folder.path()), Contains("holds no config.json"));
  CHECK_THROWS_WITH(ModelFolder::open(folder / "absent"), Contains("is not a model folder"));
  folder.write("config.json", "{\"model_type\": ");
  CHECK_THROWS_WITH(ModelFolder::open(folder.path()), Contains("config.json"));
}

TEST_CASE("a run's folder means its newest checkpoint", "[hf]") {
  const TempFolder run;
  fs::create_directories(run / "checkpoints");
  CHECK_THROWS_WITH(ModelFolder::open(run.path()), Contains("run without a checkpoint"));
  write_tiny_model(run / "checkpoints" / "step_00000002",
                   tiny_decoder(tiny_config(), torch::kFloat32));
  fs::create_directory_symlink("step_00000002", run / "checkpoints" / "latest");
  CHECK(ModelFolder::open(run.path()).path().filename() == "step_00000002");
}

TEST_CASE("the hash of a model's weights notices a single bit", "[hf]") {
  DamagedModel model;
  const auto before = weights_hash(model.open());
  CHECK(before.size() == 16);
  CHECK(weights_hash(model.open()) == before);
  model.tensor("model.norm.weight").view(torch::kInt32)[3] += 1;
  CHECK(weights_hash(model.open()) != before);
}

}  // namespace
}  // namespace regroup
