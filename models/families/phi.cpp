// Phi-1, 1.5 and 2 (Gunasekar et al. 2023): parallel residual, partial RoPE, biases everywhere.
// transformers' PhiForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void phi_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/2048);
  layer_norm_fields(fields, config, "layer_norm_eps");
  fields.flag("tie_word_embeddings", config.head.tied, false);
  fields.constant("the head's bias", config.head.bias, true);
  for (auto& layer : config.layers) {
    auto& attention = layer.attention;
    fields.constant("wiring", layer.wiring, LayerConfig::Wiring::kParallel);
    fields.constant("norms", layer.mlp_in, std::optional<NormConfig>());
    attention_size_fields_without_head_dim(fields, config.d_model, attention);
    rotary_fields(fields, config.max_seq_len, attention, {.is_partial = true, .share = 0.5});
    bool norms_heads = attention.qk_norm.has_value();
    fields.flag("qk_layernorm", norms_heads, false);
    if (norms_heads) attention.qk_norm = {QkNormConfig::Over::kHead, *layer.attention_in};
    all_biases(fields, layer);
    fields.size("intermediate_size", layer.mlp.d_ff);
    plain_mlp_fields(fields, layer.mlp);
    activation_field(fields, "hidden_act", layer.mlp, "gelu_new");
  }
}

}  // namespace

Family phi_family() {
  return {.name = "phi",
          .model_type = "phi",
          .architecture = "PhiForCausalLM",
          .covers = "parallel residual, partial RoPE, biases, norms of heads",
          .fields = phi_fields,
          .tensors = llama_tensors({{{Role::kOutput}, "model.layers.{}.self_attn.dense"},
                                    {{Role::kQueryNorm}, "model.layers.{}.self_attn.q_layernorm"},
                                    {{Role::kKeyNorm}, "model.layers.{}.self_attn.k_layernorm"},
                                    {{Role::kUp}, "model.layers.{}.mlp.fc1"},
                                    {{Role::kDown}, "model.layers.{}.mlp.fc2"},
                                    {{Role::kFinalNorm}, "model.final_layernorm"}}),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
