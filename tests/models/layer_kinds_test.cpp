// Gradients of a training step for each kind of layer, embedding and head that a family has.
#include <functional>
#include <string>
#include <vector>

#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using testing::numerical_gradient;
using testing::random_tokens;
using testing::tiny_config;
using testing::tiny_decoder;

struct LayerKind {
  std::string name;
  std::function<void(LayerConfig&)> change;
};

NormConfig layer_norm() { return {Norm::Kind::kLayer, 1e-5, true, /*has_bias=*/true}; }

void add_biases(LayerConfig& layer) {
  layer.attention.qkv_bias = layer.attention.output_bias = true;
  layer.mlp.in_bias = layer.mlp.out_bias = true;
}

void norm_queries(LayerConfig& layer, QkNormConfig::Over over, const NormConfig& norm) {
  layer.attention.qk_norm = QkNormConfig{over, norm};
}

const std::vector<LayerKind> kLayerKinds{
    {"biases", add_biases},
    {"layer norms", [](auto& layer) { layer.attention_in = layer.mlp_in = layer_norm(); }},
    {"norms without weights",
     [](auto& layer) {
       layer.attention_in = layer.mlp_in = NormConfig{Norm::Kind::kLayer, 1e-5, false};
     }},
    {"gains around 1", [](auto& layer) { layer.attention_in->gain_offset = 1; }},
    {"norms after attention and MLP",
     [](auto& layer) {
       layer.attention_out = layer.mlp_out = NormConfig();
       layer.attention_in = layer.mlp_in = std::nullopt;
     }},
    {"norms before and after",
     [](auto& layer) { layer.attention_out = layer.mlp_out = layer_norm(); }},
    {"parallel with one norm",
     [](auto& layer) {
       layer.wiring = LayerConfig::Wiring::kParallel;
       layer.mlp_in = std::nullopt;
     }},
    {"parallel with two norms", [](auto& layer) { layer.wiring = LayerConfig::Wiring::kParallel; }},
    {"normed stream", [](auto& layer) { layer.wiring = LayerConfig::Wiring::kNormedStream; }},
    {"norm after the sum",
     [](auto& layer) {
       layer.wiring = LayerConfig::Wiring::kNormAfter;
       layer.attention_in = layer.mlp_in = std::nullopt;
       layer.attention_out = layer.mlp_out = layer_norm();
     }},
    {"q/k norm of each head",
     [](auto& layer) { norm_queries(layer, QkNormConfig::Over::kHead, NormConfig()); }},
    {"q/k norm with a gain for each head",
     [](auto& layer) { norm_queries(layer, QkNormConfig::Over::kHeads, layer_norm()); }},
    {"q/k norm of all heads",
     [](auto& layer) { norm_queries(layer, QkNormConfig::Over::kAllHeads, NormConfig()); }},
    {"clipped queries, keys and values",
     [](auto& layer) {
       layer.attention.qkv_bias = true;
       layer.attention.clip_qkv = 0.8;
     }},
    {"partial rotary", [](auto& layer) { layer.attention.rotary->dims = 4; }},
    {"no rotary", [](auto& layer) { layer.attention.rotary = std::nullopt; }},
    {"soft cap", [](auto& layer) { layer.attention.scores.soft_cap = 0.7; }},
    {"window", [](auto& layer) { layer.attention.scores.window = 2; }},
    {"ALiBi",
     [](auto& layer) {
       layer.attention.rotary = std::nullopt;
       layer.attention.scores.alibi = AlibiConfig();
     }},
    {"scaled scores", [](auto& layer) { layer.attention.scores.scale = 0.9; }},
    {"GELU without a gate",
     [](auto& layer) {
       layer.mlp.activation = {Activation::Kind::kGelu, /*gated=*/false};
     }},
    {"gated approximate GELU",
     [](auto& layer) {
       layer.mlp.activation = {Activation::Kind::kGeluTanh, /*gated=*/true};
     }},
    {"ReLU with biases",
     [](auto& layer) {
       layer.mlp.activation = {Activation::Kind::kRelu, /*gated=*/false};
       add_biases(layer);
     }},
};

struct ModelKind {
  std::string name;
  std::function<void(DecoderConfig&)> change;
};

const std::vector<ModelKind> kModelKinds{
    {"scaled and normed embeddings",
     [](auto& config) {
       config.embedding.scale = 3;
       config.embedding.norm = layer_norm();
     }},
    {"learned positions", [](auto& config) { config.embedding.first_position = 2; }},
    {"narrow embeddings", [](auto& config) { config.embedding.width = 4; }},
    {"narrow tied embeddings",
     [](auto& config) {
       config.embedding.width = 4;
       config.head.tied = true;
     }},
    {"scaled and capped logits with a bias",
     [](auto& config) {
       config.head.bias = true;
       config.head.scale = 0.5;
       config.head.soft_cap = 0.9;
     }},
    {"a tied head without a norm before it",
     [](auto& config) {
       config.final_norm = std::nullopt;
       config.head.tied = true;
     }},
};

/// Few parameters, since each costs two losses.
DecoderConfig small_config(const std::vector<int64_t>& n_kv_head = {1}, int64_t n_head = 2) {
  auto config = tiny_config(n_kv_head, n_head);
  config.d_model = 5;
  config.vocab_size = 7;
  for (auto& layer : config.layers) layer.mlp.d_ff = 3;
  return config;
}

/// Compares the gradients of every parameter with central differences of the loss.
void check_training_gradients(const DecoderConfig& config, bool checkpoint_activations) {
  REQUIRE(config.problems().empty());
  auto decoder = tiny_decoder(config);
  decoder.enable_training(checkpoint_activations);
  const auto tokens = random_tokens(config, 2, 4);
  decoder.loss(tokens, 0.5).backward();
  const auto value = [&] { return decoder.loss(tokens, 0.5).item<double>(); };
  for (const auto& block : decoder.blocks()) {
    const auto gradient = block.gradient();
    for (size_t i = 0; i < block.parameters().size(); ++i) {
      INFO(block.parameters()[i].name);
      const auto values = block.parameter(i);
      const auto expected = numerical_gradient(value, values).flatten();
      CHECK(expected.abs().max().item<double>() > 1e-4);
      CHECK_THAT(gradient.narrow(0, block.offset(i), values.numel()),
                 AllClose(expected, 1e-7, 1e-6));
    }
  }
}

TEST_CASE("the loss has the gradients of its value whatever the K/V heads", "[decoder]") {
  auto config =
      small_config(GENERATE(std::vector<int64_t>{4, 4}, std::vector<int64_t>{2, 1}), /*n_head=*/4);
  config.head.tied = GENERATE(false, true);
  check_training_gradients(config, GENERATE(false, true));
}

TEST_CASE("each kind of layer has the gradients of its loss in every parameter", "[decoder]") {
  const auto kind = GENERATE(from_range(kLayerKinds));
  INFO(kind.name);
  auto config = small_config();
  const auto plain = config.layers[0];
  kind.change(config.layers[0]);
  REQUIRE(config.layers[0] != plain);
  check_training_gradients(config, /*checkpoint_activations=*/false);
}

TEST_CASE("each kind of embedding and head has the gradients of its loss", "[decoder]") {
  const auto kind = GENERATE(from_range(kModelKinds));
  INFO(kind.name);
  auto config = small_config();
  kind.change(config);
  REQUIRE(config != small_config());
  check_training_gradients(config, /*checkpoint_activations=*/false);
}

}  // namespace
}  // namespace regroup
