// tests/support/tiny_models.h: small decoders whose axes have distinct sizes, so that tests notice
// swapped axes.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <vector>

#include "framework/tensors/random.h"
#include "models/decoder.h"
#include "models/families/family.h"
#include "models/model_writer.h"

namespace regroup::testing {

/// n_kv_head: one number per layer. head_dim differs from d_model / n_head.
inline DecoderConfig tiny_config(const std::vector<int64_t>& n_kv_head = {2, 2},
                                 int64_t n_head = 4) {
  DecoderConfig config;
  config.d_model = 10;
  config.vocab_size = 23;
  config.max_seq_len = 32;
  for (const int64_t n : n_kv_head) {
    LayerConfig layer;
    layer.attention.n_head = n_head;
    layer.attention.n_kv_head = n;
    layer.attention.head_dim = 6;
    layer.attention.rotary = RotaryConfig{/*dims=*/6, /*theta=*/500};
    layer.attention.scores = ScoreRule::plain(6);
    layer.mlp.d_ff = 14;
    config.layers.push_back(layer);
  }
  return config;
}

/// The same config with this scaling in every layer.
inline DecoderConfig with_scaling(DecoderConfig config, const RopeScaling& scaling) {
  for (auto& layer : config.layers) layer.attention.rotary->scaling = scaling;
  return config;
}

/// A decoder with weights so large that each of them affects the logits.
inline Decoder tiny_decoder(const DecoderConfig& config, torch::ScalarType dtype = torch::kFloat64,
                            uint64_t seed = 3) {
  Decoder decoder(config, torch::TensorOptions(dtype));
  for (const auto& block : decoder.blocks()) {
    for (size_t i = 0; i < block.parameters().size(); ++i) {
      const auto& spec = block.parameters()[i];
      const auto noise =
          torch::randn(spec.shape, seeded_generator(seed, spec.name), torch::kFloat64) * 0.3;
      block.parameter(i).copy_(spec.init_std == 0 ? 1 + noise : noise);
    }
  }
  return decoder;
}

inline torch::Tensor random_tokens(const DecoderConfig& config, int64_t batch, int64_t positions,
                                   uint64_t seed = 5) {
  return torch::randint(config.vocab_size, {batch, positions}, seeded_generator(seed, "tokens"),
                        torch::kInt64);
}

/// Writes the decoder as a model folder in its own dtype.
inline void write_tiny_model(const std::filesystem::path& folder, const Decoder& decoder) {
  std::filesystem::create_directories(folder);
  const auto dtype = c10::typeMetaToScalarType(decoder.options().dtype());
  write_model(folder, {&families().front(), decoder.config(), dtype, {}, {}},
              parameter_sources(decoder), kDefaultShardBytes);
}

/// A copy of the decoder with n_kv_head K/V heads in every layer: each head is repeated.
inline Decoder with_repeated_kv_heads(const Decoder& decoder, int64_t n_kv_head) {
  auto config = decoder.config();
  config.set_n_kv_head(std::vector<int64_t>(config.layers.size(), n_kv_head));
  Decoder repeated(config, decoder.options());
  for (const auto& block : repeated.block_specs()) {
    for (const auto& [id, spec] : block.parameters) {
      const auto target = repeated.parameter(id), source = decoder.parameter(id);
      const int64_t copies = target.size(0) / source.size(0);
      const auto heads =
          copies == 1 ? source.unsqueeze(0)
                      : source.unflatten(0, {-1, config.layer(*id.layer).attention.head_dim});
      target.copy_(heads.repeat_interleave(copies, 0).view(target.sizes()));
    }
  }
  return repeated;
}

}  // namespace regroup::testing
