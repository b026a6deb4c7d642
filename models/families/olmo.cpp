// OLMo (Groeneveld et al. 2024): norms without weights, clipped queries, keys and values.
// transformers' OlmoForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void olmo_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/2048);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  const std::optional<NormConfig> plain = NormConfig{Norm::Kind::kLayer, 1e-5, /*has_gain=*/false};
  fields.constant("norms", config.final_norm, plain);
  for (auto& layer : config.layers) {
    fields.constant("norms", layer.attention_in, plain);
    fields.constant("norms", layer.mlp_in, plain);
    attention_size_fields_without_head_dim(fields, config.d_model, layer.attention);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.flag("attention_bias", layer.attention.qkv_bias, false);
    fields.flag("attention_bias", layer.attention.output_bias, false);
    fields.optional_number("clip_qkv", layer.attention.clip_qkv);
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
}

}  // namespace

Family olmo_family() {
  return {.name = "olmo",
          .model_type = "olmo",
          .architecture = "OlmoForCausalLM",
          .covers = "norms without weights, clip_qkv, biases of attention",
          .fields = olmo_fields,
          .tensors = llama_tensors(),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
