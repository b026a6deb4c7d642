// OLMo 2 (OLMo team 2025): norms of what attention and MLP write, and of all queries and all keys
// together. transformers' Olmo2ForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void olmo2_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/2048);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  NormConfig norm{Norm::Kind::kRms, config.final_norm->eps};
  fields.number("rms_norm_eps", norm.eps, 1e-5);
  const auto present = std::optional<NormConfig>(norm), absent = std::optional<NormConfig>();
  fields.constant("norms", config.final_norm, present);
  for (auto& layer : config.layers) {
    fields.constant("norms", layer.attention_in, absent);
    fields.constant("norms", layer.attention_out, present);
    fields.constant("norms", layer.mlp_in, absent);
    fields.constant("norms", layer.mlp_out, present);
    attention_size_fields_without_head_dim(fields, config.d_model, layer.attention);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.flag("attention_bias", layer.attention.qkv_bias, false);
    fields.flag("attention_bias", layer.attention.output_bias, false);
    fields.constant("norms of queries and keys", layer.attention.qk_norm,
                    std::optional<QkNormConfig>({QkNormConfig::Over::kAllHeads, norm}));
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
}

}  // namespace

Family olmo2_family() {
  return {
      .name = "olmo2",
      .model_type = "olmo2",
      .architecture = "Olmo2ForCausalLM",
      .covers = "norms after attention and MLP, norms over all queries and all keys",
      .fields = olmo2_fields,
      .tensors = llama_tensors({{{Role::kAttentionOut}, "model.layers.{}.post_attention_layernorm"},
                                {{Role::kMlpOut}, "model.layers.{}.post_feedforward_layernorm"},
                                {{Role::kQueryNorm}, "model.layers.{}.self_attn.q_norm"},
                                {{Role::kKeyNorm}, "model.layers.{}.self_attn.k_norm"}}),
      .buffers = rotary_buffers()};
}

}  // namespace regroup
