// StableLM (Bellagente et al. 2024): LayerNorm, partial RoPE, optional parallel residual and norms
// of heads. transformers' StableLmForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void stablelm_fields(ConfigFields& fields, DecoderConfig& config) {
  using Wiring = LayerConfig::Wiring;
  size_fields(fields, config, /*absent_positions=*/4096);
  layer_norm_fields(fields, config, "layer_norm_eps");
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    auto& attention = layer.attention;
    attention_size_fields_without_head_dim(fields, config.d_model, attention);
    rotary_fields(fields, config.max_seq_len, attention, {.is_partial = true, .share = 0.25});
    fields.flag("use_qkv_bias", attention.qkv_bias, false);
    bool norms_heads = attention.qk_norm.has_value();
    fields.flag("qk_layernorm", norms_heads, false);
    NormConfig head_norm = *layer.attention_in;
    head_norm.has_bias = false;
    if (norms_heads) attention.qk_norm = QkNormConfig{QkNormConfig::Over::kHeads, head_norm};
    wiring_flag(fields, "use_parallel_residual", layer, Wiring::kParallel, false);
    if (layer.wiring == Wiring::kParallel) layer.mlp_in = std::nullopt;
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
}

}  // namespace

Family stablelm_family() {
  return {
      .name = "stablelm",
      .model_type = "stablelm",
      .architecture = "StableLmForCausalLM",
      .covers = "LayerNorm, partial RoPE, sequential or parallel, norms with a gain for each head",
      .fields = stablelm_fields,
      .tensors = llama_tensors({{.roles = {Role::kQueryNorm},
                                 .module = "model.layers.{}.self_attn.q_layernorm.norms.{head}",
                                 .by_head = true},
                                {.roles = {Role::kKeyNorm},
                                 .module = "model.layers.{}.self_attn.k_layernorm.norms.{head}",
                                 .by_head = true}}),
      .buffers = rotary_buffers()};
}

}  // namespace regroup
