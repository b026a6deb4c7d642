#include "models/config/decoder_json.h"

#include <c10/util/StringUtil.h>

#include <string>

#include "framework/errors/error.h"

NLOHMANN_JSON_NAMESPACE_BEGIN

/// An optional that is not set is null.
template <typename T>
struct adl_serializer<std::optional<T>> {
  static void to_json(json& value, const std::optional<T>& optional) {
    value = optional ? json(*optional) : json();
  }
  static void from_json(const json& value, std::optional<T>& optional) {
    optional = value.is_null() ? std::nullopt : std::optional<T>(value.get<T>());
  }
};

NLOHMANN_JSON_NAMESPACE_END

namespace regroup {

// NOLINTBEGIN
NLOHMANN_JSON_SERIALIZE_ENUM(RopeScaling::Kind, {{RopeScaling::Kind::kNone, "none"},
                                                 {RopeScaling::Kind::kLinear, "linear"},
                                                 {RopeScaling::Kind::kDynamic, "dynamic"},
                                                 {RopeScaling::Kind::kLlama3, "llama3"},
                                                 {RopeScaling::Kind::kYarn, "yarn"},
                                                 {RopeScaling::Kind::kLongRope, "longrope"}})
NLOHMANN_JSON_SERIALIZE_ENUM(Norm::Kind, {{Norm::Kind::kRms, "rms"}, {Norm::Kind::kLayer, "layer"}})
NLOHMANN_JSON_SERIALIZE_ENUM(Activation::Kind, {{Activation::Kind::kSilu, "silu"},
                                                {Activation::Kind::kGelu, "gelu"},
                                                {Activation::Kind::kGeluTanh, "gelu_tanh"},
                                                {Activation::Kind::kRelu, "relu"}})
NLOHMANN_JSON_SERIALIZE_ENUM(QkNormConfig::Over, {{QkNormConfig::Over::kHead, "head"},
                                                  {QkNormConfig::Over::kHeads, "heads"},
                                                  {QkNormConfig::Over::kAllHeads, "all_heads"}})
NLOHMANN_JSON_SERIALIZE_ENUM(LayerConfig::Wiring,
                             {{LayerConfig::Wiring::kSequential, "sequential"},
                              {LayerConfig::Wiring::kParallel, "parallel"},
                              {LayerConfig::Wiring::kNormedStream, "normed_stream"},
                              {LayerConfig::Wiring::kNormAfter, "norm_after"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NormConfig, kind, eps, has_gain, has_bias, gain_offset)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RopeScaling, kind, factor, low_freq_factor, high_freq_factor,
                                   original_max_seq_len, beta_fast, beta_slow, truncate,
                                   short_factor, long_factor, attention_factor)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RotaryConfig, dims, theta, scaling)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AlibiConfig, scale, rounds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ScoreRule, scale, soft_cap, window, alibi)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(QkNormConfig, over, norm)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AttentionConfig, n_head, n_kv_head, head_dim, qkv_bias,
                                   output_bias, clip_qkv, qk_norm, rotary, scores)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Activation, kind, gated)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MlpConfig, d_ff, activation, in_bias, out_bias)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LayerConfig, wiring, attention_in, attention_out, attention,
                                   mlp_in, mlp_out, mlp)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EmbeddingConfig, scale, first_position, width, norm)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HeadConfig, tied, bias, scale, soft_cap)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DecoderConfig, d_model, vocab_size, max_seq_len, embedding,
                                   layers, final_norm, head)
// NOLINTEND

nlohmann::json decoder_json(const DecoderConfig& config) { return config; }

DecoderConfig decoder_from_json(const nlohmann::json& json, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(where, "decoder_config: " + what, "The file is damaged, or of another version.");
  };
  DecoderConfig config;
  try {
    config = json.get<DecoderConfig>();
  } catch (const nlohmann::json::exception& error) {
    refuse(error.what());
  }
  // Names and numbers that a type does not hold become others in it.
  const auto understood = decoder_json(config);
  if (understood != json) {
    const auto first = nlohmann::json::diff(json, understood).at(0);
    refuse(c10::str(first.at("path").get<std::string>(), " is not what a decoder has there"));
  }
  return config;
}

}  // namespace regroup
