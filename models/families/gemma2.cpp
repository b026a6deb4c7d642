// Gemma 2 (Gemma team 2024): Gemma with capped scores and logits, norms on both sides of attention
// and MLP, and a window in every other layer. transformers' Gemma2ForCausalLM.
#include <cmath>

#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

/// Scores are divided by the root of query_pre_attn_scalar, an integer in files.
void scale_field(ConfigFields& fields, ScoreRule& scores) {
  int64_t divisor = scores.scale > 0 ? std::llround(1 / (scores.scale * scores.scale)) : 0;
  fields.size("query_pre_attn_scalar", divisor, 256);
  const double scale = 1 / std::sqrt(static_cast<double>(divisor));
  fields.constant("attention scale", scores.scale, scale);
}

void gemma2_fields(ConfigFields& fields, DecoderConfig& config) {
  const auto norm = gemma_stem_fields(fields, config);
  fields.optional_number("final_logit_softcapping", config.head.soft_cap, 30.0);
  std::optional<int64_t> window;
  for (auto& layer : config.layers) {
    for (auto* place : {&layer.attention_in, &layer.attention_out, &layer.mlp_in, &layer.mlp_out})
      fields.constant("norms", *place, norm);
    attention_size_fields(fields, config.d_model, layer.attention);
    scale_field(fields, layer.attention.scores);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.flag("attention_bias", layer.attention.qkv_bias, false);
    fields.flag("attention_bias", layer.attention.output_bias, false);
    fields.optional_number("attn_logit_softcapping", layer.attention.scores.soft_cap, 50.0);
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_activation", layer.mlp, "gelu_pytorch_tanh");
    auto repeated = layer.mlp;  // for other programs; transformers does not read this key
    activation_field(fields, "hidden_act", repeated, "gelu_pytorch_tanh");
    if (layer.attention.scores.window) window = layer.attention.scores.window;
  }
  fields.optional_size("sliding_window", window, 4096);
  layer_type_fields(fields, config, window, [](int64_t layer) { return layer % 2 == 0; });
  fields.expect("use_bidirectional_attention", nullptr);
}

}  // namespace

Family gemma2_family() {
  return {
      .name = "gemma2",
      .model_type = "gemma2",
      .architecture = "Gemma2ForCausalLM",
      .covers = "as Gemma, soft caps of scores and logits, norms on both sides, windows by layer",
      .fields = gemma2_fields,
      .tensors = llama_tensors({{{Role::kAttentionOut}, "model.layers.{}.post_attention_layernorm"},
                                {{Role::kMlpIn}, "model.layers.{}.pre_feedforward_layernorm"},
                                {{Role::kMlpOut}, "model.layers.{}.post_feedforward_layernorm"}}),
      .buffers = rotary_buffers()};
}

}  // namespace regroup
