// Mistral (Jiang et al. 2023): Llama with a sliding window. transformers' MistralForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void mistral_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/131072);
  rms_norm_fields(fields, config, 1e-6);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    attention_size_fields(fields, config.d_model, layer.attention);
    scale_constant(fields, layer.attention);
    fields.optional_size("sliding_window", layer.attention.scores.window, 4096);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
  fields.expect("layer_types", nullptr);
}

}  // namespace

Family mistral_family() {
  return {.name = "mistral",
          .model_type = "mistral",
          .architecture = "MistralForCausalLM",
          .covers = "as Llama, with a sliding window",
          .fields = mistral_fields,
          .tensors = llama_tensors(),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
