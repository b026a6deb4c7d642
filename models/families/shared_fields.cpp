#include "models/families/shared_fields.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cmath>

#include "framework/errors/error.h"

namespace regroup {
namespace {

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";

void head_count_fields(ConfigFields& fields, AttentionConfig& attention) {
  fields.size("num_attention_heads", attention.n_head);
  fields.size("num_key_value_heads", attention.n_kv_head, attention.n_head);
  if (!fields.json() || attention.n_head % attention.n_kv_head == 0) return;
  throw Error(fields.json()->where(),
              c10::str("num_key_value_heads (", attention.n_kv_head,
                       ") does not divide num_attention_heads (", attention.n_head, ")"),
              "The file is damaged, or is not a model of this family.");
}

void require_divisible(const ConfigFields& fields, int64_t d_model, int64_t n_head) {
  if (fields.json() && d_model % n_head != 0)
    fields.json()->refuse("hidden_size", "a multiple of num_attention_heads");
}

}  // namespace

void size_fields(ConfigFields& fields, DecoderConfig& config, int64_t absent_positions) {
  fields.size("vocab_size", config.vocab_size);
  fields.size("hidden_size", config.d_model);
  fields.layers("num_hidden_layers", config);
  fields.size("max_position_embeddings", config.max_seq_len, absent_positions);
}

void attention_size_fields(ConfigFields& fields, int64_t d_model, AttentionConfig& attention) {
  head_count_fields(fields, attention);
  if (fields.json() && !fields.json()->has("head_dim"))
    require_divisible(fields, d_model, attention.n_head);
  fields.size("head_dim", attention.head_dim, d_model / attention.n_head);
}

void attention_size_fields_without_head_dim(ConfigFields& fields, int64_t d_model,
                                            AttentionConfig& attention) {
  head_count_fields(fields, attention);
  require_divisible(fields, d_model, attention.n_head);
  fields.constant("head_dim", attention.head_dim, d_model / attention.n_head);
  scale_constant(fields, attention);
}

void query_head_fields(ConfigFields& fields, const std::string& key, int64_t d_model,
                       AttentionConfig& attention) {
  fields.size(key, attention.n_head);
  if (fields.json() && d_model % attention.n_head != 0)
    fields.json()->refuse(key, c10::str("a divisor of the width, ", d_model));
  fields.constant("head_dim", attention.head_dim, d_model / attention.n_head);
}

void multi_head_fields(ConfigFields& fields, const std::string& key, int64_t d_model,
                       AttentionConfig& attention) {
  query_head_fields(fields, key, d_model, attention);
  fields.constant("grouped K/V heads", attention.n_kv_head, attention.n_head);
}

void scale_constant(ConfigFields& fields, AttentionConfig& attention) {
  fields.constant("attention scale", attention.scores.scale,
                  ScoreRule::plain(attention.head_dim).scale);
}

void all_biases(ConfigFields& fields, LayerConfig& layer) {
  for (bool* bias : {&layer.attention.qkv_bias, &layer.attention.output_bias, &layer.mlp.in_bias,
                     &layer.mlp.out_bias})
    fields.constant("biases", *bias, true);
}

std::optional<NormConfig> gemma_stem_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/8192);
  fields.flag("tie_word_embeddings", config.head.tied, true);
  fields.constant("the embedding's scale", config.embedding.scale,
                  std::sqrt(static_cast<double>(config.d_model)));
  NormConfig norm{Norm::Kind::kRms, config.final_norm->eps};
  norm.gain_offset = 1;
  fields.number("rms_norm_eps", norm.eps, 1e-6);
  fields.constant("norms", config.final_norm, std::optional(norm));
  return norm;
}

void wiring_flag(ConfigFields& fields, const std::string& key, LayerConfig& layer,
                 LayerConfig::Wiring if_set, bool absent) {
  bool is_set = layer.wiring == if_set;
  fields.flag(key, is_set, absent);
  layer.wiring = is_set ? if_set : LayerConfig::Wiring::kSequential;
}

void plain_mlp_fields(ConfigFields& fields, MlpConfig& mlp) {
  fields.constant("gated MLP", mlp.activation.gated, false);
}

void inner_size_field(ConfigFields& fields, const std::string& key, int64_t d_model,
                      MlpConfig& mlp) {
  std::optional<int64_t> stated = mlp.d_ff;
  fields.optional_size(key, stated);
  if (fields.json()) mlp.d_ff = stated.value_or(4 * d_model);
}

void activation_field(ConfigFields& fields, const std::string& key, MlpConfig& mlp,
                      const std::string& absent) {
  using Kind = Activation::Kind;
  std::vector<std::pair<std::string, Kind>> names{
      {"silu", Kind::kSilu},          {"swish", Kind::kSilu},
      {"gelu", Kind::kGelu},          {"gelu_python", Kind::kGelu},
      {"gelu_new", Kind::kGeluTanh},  {"gelu_pytorch_tanh", Kind::kGeluTanh},
      {"gelu_fast", Kind::kGeluTanh}, {"gelu_python_tanh", Kind::kGeluTanh},
      {"relu", Kind::kRelu}};
  std::stable_partition(names.begin(), names.end(),
                        [&](const auto& name) { return name.first == absent; });
  fields.choice(key, mlp.activation.kind, names, absent);
}

void rms_norm_fields(ConfigFields& fields, DecoderConfig& config, double absent_eps) {
  fields.number("rms_norm_eps", config.final_norm->eps, absent_eps);
  for (auto& layer : config.layers) {
    fields.number("rms_norm_eps", layer.attention_in->eps, absent_eps);
    fields.number("rms_norm_eps", layer.mlp_in->eps, absent_eps);
  }
}

void layer_norm_fields(ConfigFields& fields, DecoderConfig& config, const std::string& eps_key) {
  const auto norm_fields = [&](std::optional<NormConfig>& norm) {
    if (fields.is_writing() && !norm) return;  // a norm that the family's wiring leaves out
    NormConfig layer_norm{Norm::Kind::kLayer, 1e-5, true, true};
    if (norm) layer_norm.eps = norm->eps;
    fields.number(eps_key, layer_norm.eps, 1e-5);
    fields.constant("norms", norm, std::optional<NormConfig>(layer_norm));
  };
  norm_fields(config.final_norm);
  for (auto& layer : config.layers) {
    norm_fields(layer.attention_in);
    norm_fields(layer.mlp_in);
  }
}

void layer_type_fields(ConfigFields& fields, DecoderConfig& config, std::optional<int64_t> window,
                       const std::function<bool(int64_t layer)>& absent) {
  std::vector<std::string> types;
  if (fields.is_writing()) {
    for (const auto& layer : config.layers)
      types.push_back(layer.attention.scores.window ? kSliding : kFull);
    return fields.write("layer_types", types);
  }
  if (fields.json()) types = fields.json()->find_strings("layer_types").value_or(types);
  if (!types.empty() && types.size() != config.layers.size())
    fields.json()->refuse("layer_types", c10::str("one for each of ", config.n_layer(), " layers"));
  for (int64_t i = 0; i < config.n_layer(); ++i) {
    const auto type = types.empty() ? "" : types[static_cast<size_t>(i)];
    if (!type.empty() && type != kFull && type != kSliding)
      fields.json()->refuse("layer_types", c10::str("only ", kFull, " and ", kSliding));
    const bool slides = type.empty() ? absent(i) : type == kSliding;
    if (slides) config.layer(i).attention.scores.window = window;
  }
}

void layer_window_fields(ConfigFields& fields, DecoderConfig& config) {
  std::optional<int64_t> window;
  int64_t first = config.n_layer();
  for (int64_t i = config.n_layer(); i-- > 0;) {
    const auto& own = config.layer(i).attention.scores.window;
    if (own) window = own;
    if (own && i + 1 == first) first = i;
  }
  bool slides = window.has_value();
  fields.flag("use_sliding_window", slides, false);
  fields.optional_size("sliding_window", window, 4096);
  if (!slides) window = std::nullopt;
  fields.size("max_window_layers", first, 28, {0, kPositive.max});
  layer_type_fields(fields, config, window, [&](int64_t layer) { return layer >= first; });
}

bool is_causal_mask(const DecoderConfig&, const torch::Tensor& stored) {
  if (stored.dim() < 2 || stored.size(-1) != stored.size(-2)) return false;
  const auto mask = stored.to(torch::kBool);
  return torch::equal(mask, torch::ones_like(mask).tril());
}

bool is_mask_value(const DecoderConfig&, const torch::Tensor& stored) {
  return stored.numel() == 1 && stored.item<double>() < -1000;
}

const std::vector<std::string>& harmless_keys() {
  static const std::vector<std::string> keys{
      "_attn_implementation", "_name_or_path", "architectures", "attn_implementation",
      "classifier_dropout", "is_decoder", "bos_token_id", "chunk_size_feed_forward", "dtype",
      "eos_token_id", "id2label", "initializer_range", "is_encoder_decoder", "label2id",
      "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
      "problem_type", "regroup", "return_dict", "torch_dtype", "transformers_version",
      "unsloth_fixed", "use_cache",
      // Have a meaning only with a scaling, which reads it.
      "original_max_position_embeddings",
      // Act in training only; Regroup trains without dropout.
      "attention_dropout", "attn_pdrop", "dropout", "embd_pdrop", "hidden_dropout", "resid_pdrop"};
  return keys;
}

}  // namespace regroup
