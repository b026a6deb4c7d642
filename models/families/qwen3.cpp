// Qwen3 (Yang et al. 2025): norms of each query and key head. transformers' Qwen3ForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void qwen3_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/32768);
  rms_norm_fields(fields, config, 1e-6);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    auto& attention = layer.attention;
    attention_size_fields(fields, config.d_model, attention);
    if (fields.json() && !fields.json()->has("head_dim")) attention.head_dim = 128;
    scale_constant(fields, attention);
    rotary_fields(fields, config.max_seq_len, attention);
    fields.flag("attention_bias", attention.qkv_bias, false);
    fields.flag("attention_bias", attention.output_bias, false);
    fields.constant("norms of queries and keys", attention.qk_norm,
                    std::optional<QkNormConfig>({QkNormConfig::Over::kHead, *layer.attention_in}));
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
  layer_window_fields(fields, config);
}

}  // namespace

Family qwen3_family() {
  return {.name = "qwen3",
          .model_type = "qwen3",
          .architecture = "Qwen3ForCausalLM",
          .covers = "as Llama, norms of query and key heads; windows by layer",
          .fields = qwen3_fields,
          .tensors = llama_tensors({{{Role::kQueryNorm}, "model.layers.{}.self_attn.q_norm"},
                                    {{Role::kKeyNorm}, "model.layers.{}.self_attn.k_norm"}}),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
