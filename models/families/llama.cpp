// Llama (Touvron et al. 2023): transformers' LlamaForCausalLM.
#include <c10/util/StringUtil.h>

#include <torch/types.h>

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/progress/console.h"
#include "models/families/family.h"
#include "models/layers/rope.h"

namespace regroup {
namespace {

constexpr IntegerRange kPositive{1, int64_t{1} << 31};
constexpr IntegerRange kLayers{
    1, 1 << 16};  // what follows takes memory for each, before a tensor is looked for

/// A field whose other values change the computation in a way that the decoder does not implement.
void expect(const JsonObject& json, const std::string& key, const nlohmann::json& value) {
  if (json.has(key) && json.raw(key) != value)
    json.refuse(key, value.dump() + ", all that this decoder implements");
}

/// The context of the original model: beside the RoPE object (as Phi-3's files have it), in it, or
/// the model's own.
int64_t original_max_seq_len(const JsonObject& json, const JsonObject& rope, int64_t max_seq_len) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const auto outside = json.find_integer(kKey, kPositive);
  const auto inside = rope.find_integer(kKey, kPositive);
  if (outside && inside && *outside != *inside)
    rope.refuse(kKey, c10::str(*outside, " as outside"));
  return outside ? *outside : inside.value_or(max_seq_len);
}

RopeScaling read_scaling(const JsonObject& json, const JsonObject& rope, int64_t max_seq_len) {
  const auto old_type = rope.find_string("type");
  const auto type = rope.find_string("rope_type").value_or(old_type.value_or("default"));
  RopeScaling scaling;
  if (type == "default") return scaling;
  scaling.factor = rope.number("factor");
  if (!(scaling.factor > 0)) rope.refuse("factor", "a number above 0");
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.low_freq_factor = rope.number("low_freq_factor");
    scaling.high_freq_factor = rope.number("high_freq_factor");
    if (scaling.high_freq_factor == scaling.low_freq_factor)
      rope.refuse("high_freq_factor", "another than low_freq_factor");
    scaling.original_max_seq_len = original_max_seq_len(json, rope, max_seq_len);
  } else {
    rope.refuse(rope.has("rope_type") ? "rope_type" : "type", "one of default, linear, llama3");
  }
  return scaling;
}

void warn_of_unknown_fields(const JsonObject& json, const std::string& path,
                            const std::vector<std::string>& harmless) {
  std::vector<std::string> unknown;
  for (const auto& key : json.unread_keys()) {
    if (std::find(harmless.begin(), harmless.end(), key) == harmless.end())
      unknown.push_back(path + key);
  }
  if (!unknown.empty())
    warn_once(
        c10::str(json.where(), ": unknown fields are passed over: ", c10::Join(", ", unknown)));
}

/// rope_theta stands beside or in an object, rope_scaling in older files, rope_parameters in newer
/// ones. What a file says twice must agree.
void read_rope(const JsonObject& json, DecoderConfig& config) {
  auto theta = json.find_number("rope_theta");
  std::optional<RopeScaling> scaling;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = json.find_object(key);
    if (!rope) continue;
    const auto own_theta = rope->find_number("rope_theta");
    const auto own_scaling = read_scaling(json, *rope, config.max_seq_len);
    expect(*rope, "partial_rotary_factor", 1.0);
    warn_of_unknown_fields(*rope, c10::str(key, "."), {});
    if ((theta && own_theta && *theta != *own_theta) || (scaling && !(*scaling == own_scaling))) {
      throw Error(json.where(), c10::str(key, " contradicts what stands beside it about RoPE"),
                  "Keep one of rope_theta, rope_scaling and rope_parameters, or make them equal.");
    }
    if (own_theta) theta = own_theta;
    scaling = own_scaling;
  }
  config.rope_theta = theta.value_or(config.rope_theta);
  config.rope_scaling = scaling.value_or(config.rope_scaling);
}

void check_heads(const JsonObject& json, const DecoderConfig& config, int64_t n_kv_head) {
  if (config.n_head % n_kv_head != 0) {
    throw Error(json.where(),
                c10::str("num_key_value_heads (", n_kv_head,
                         ") does not divide num_attention_heads (", config.n_head, ")"),
                "The file is damaged, or no Llama.");
  }
}

// Fields of config.json that change nothing that Regroup computes.
const std::vector<std::string> kHarmlessFields{
    "_attn_implementation", "_name_or_path", "architectures", "attn_implementation", "bos_token_id",
    "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label", "initializer_range",
    "is_encoder_decoder", "label2id", "model_type", "output_attentions", "output_hidden_states",
    "pad_token_id", "pretraining_tp", "problem_type", "regroup", "return_dict", "torch_dtype",
    "transformers_version", "unsloth_fixed", "use_cache",
    // Have a meaning only with a scaling, which reads it.
    "original_max_position_embeddings",
    // Act in training only; Regroup trains without dropout.
    "attention_dropout", "attn_pdrop", "dropout", "embd_pdrop", "hidden_dropout", "resid_pdrop"};

DecoderConfig read_config(const JsonObject& json) {
  DecoderConfig config;
  config.n_layer = json.integer("num_hidden_layers", kLayers);
  config.d_model = json.integer("hidden_size", kPositive);
  config.n_head = json.integer("num_attention_heads", kPositive);
  const int64_t n_kv_head =
      json.find_integer("num_key_value_heads", kPositive).value_or(config.n_head);
  check_heads(json, config, n_kv_head);
  config.n_kv_head.assign(static_cast<size_t>(config.n_layer), n_kv_head);
  const auto head_dim = json.find_integer("head_dim", kPositive);
  if (!head_dim && config.d_model % config.n_head != 0)
    json.refuse("hidden_size", "a multiple of num_attention_heads");
  config.head_dim = head_dim.value_or(config.d_model / config.n_head);
  config.d_ff = json.integer("intermediate_size", kPositive);
  config.vocab_size = json.integer("vocab_size", kPositive);
  config.max_seq_len = json.find_integer("max_position_embeddings", kPositive).value_or(2048);
  config.norm_eps = json.find_number("rms_norm_eps").value_or(1e-6);
  config.tie_embeddings = json.find_boolean("tie_word_embeddings").value_or(false);
  read_rope(json, config);
  const auto activation = json.find_string("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish") expect(json, "hidden_act", "silu");
  expect(json, "attention_bias", false);
  expect(json, "mlp_bias", false);
  expect(json, "partial_rotary_factor", 1.0);
  for (const char* key : {"quantization_config", "sliding_window", "per_layer_config"})
    expect(json, key, nullptr);
  warn_of_unknown_fields(json, "", kHarmlessFields);
  return config;
}

/// True for the config's own frequencies, rounded to the dtype of stored; also for those before a
/// linear scaling, which transformers used to apply to the positions instead.
bool are_rope_frequencies(const DecoderConfig& config, const torch::Tensor& stored) {
  if (!stored.is_floating_point() || stored.dim() != 1 || stored.size(0) != config.head_dim / 2)
    return false;
  const double rounding = stored.scalar_type() == torch::kBFloat16 ? 8e-3 : 1e-3;
  const auto agrees_with = [&](const DecoderConfig& expected) {
    return torch::allclose(stored.to(torch::kDouble), rope_frequencies(expected, torch::kDouble),
                           rounding, /*atol=*/1e-7);
  };
  if (config.rope_scaling.kind != RopeScaling::Kind::kLinear) return agrees_with(config);
  DecoderConfig unscaled = config;
  unscaled.rope_scaling = {};
  return agrees_with(config) || agrees_with(unscaled);
}

nlohmann::ordered_json scaling_json(const DecoderConfig& config) {
  const auto& scaling = config.rope_scaling;
  nlohmann::ordered_json json;
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      json["rope_type"] = "default";
      break;
    case RopeScaling::Kind::kLinear:
      json["rope_type"] = "linear";
      json["factor"] = scaling.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      json["rope_type"] = "llama3";
      json["factor"] = scaling.factor;
      json["low_freq_factor"] = scaling.low_freq_factor;
      json["high_freq_factor"] = scaling.high_freq_factor;
      json["original_max_position_embeddings"] = scaling.original_max_seq_len;
      break;
  }
  return json;
}

nlohmann::ordered_json write_config(const DecoderConfig& config) {
  nlohmann::ordered_json json;
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.d_model;
  json["intermediate_size"] = config.d_ff;
  json["num_hidden_layers"] = config.n_layer;
  json["num_attention_heads"] = config.n_head;
  json["num_key_value_heads"] = config.kv_head_multiple();
  json["head_dim"] = config.head_dim;
  json["max_position_embeddings"] = config.max_seq_len;
  json["rms_norm_eps"] = config.norm_eps;
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  const bool scaled = config.rope_scaling.kind != RopeScaling::Kind::kNone;
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = scaled ? scaling_json(config) : nlohmann::ordered_json();
  json["rope_parameters"] = scaling_json(config);
  json["rope_parameters"]["rope_theta"] = config.rope_theta;
  return json;
}

}  // namespace

Family llama_family() {
  return {.name = "llama",
          .model_type = "llama",
          .architecture = "LlamaForCausalLM",
          .read_config = read_config,
          .write_config = write_config,
          .tensors =
              {
                  {"embedding.weight", "model.embed_tokens.weight"},
                  {"layers.{}.attention_norm.weight", "model.layers.{}.input_layernorm.weight"},
                  {"layers.{}.attention.q_proj.weight", "model.layers.{}.self_attn.q_proj.weight"},
                  {"layers.{}.attention.k_proj.weight", "model.layers.{}.self_attn.k_proj.weight"},
                  {"layers.{}.attention.v_proj.weight", "model.layers.{}.self_attn.v_proj.weight"},
                  {"layers.{}.attention.o_proj.weight", "model.layers.{}.self_attn.o_proj.weight"},
                  {"layers.{}.mlp_norm.weight", "model.layers.{}.post_attention_layernorm.weight"},
                  {"layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.gate_proj.weight"},
                  {"layers.{}.mlp.up_proj.weight", "model.layers.{}.mlp.up_proj.weight"},
                  {"layers.{}.mlp.down_proj.weight", "model.layers.{}.mlp.down_proj.weight"},
                  {"final_norm.weight", "model.norm.weight"},
                  {"head.weight", "lm_head.weight"},
              },
          .buffers = {{"model.layers.{}.self_attn.rotary_emb.inv_freq", are_rope_frequencies},
                      {"model.rotary_emb.inv_freq", are_rope_frequencies}}};
}

}  // namespace regroup
