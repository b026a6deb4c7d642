// Gemma (Gemma team 2024): scaled embedding, gains of 1 + weight, GeGLU. transformers'
// GemmaForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void gemma_fields(ConfigFields& fields, DecoderConfig& config) {
  const auto norm = gemma_stem_fields(fields, config);
  for (auto& layer : config.layers) {
    fields.constant("norms", layer.attention_in, norm);
    fields.constant("norms", layer.mlp_in, norm);
    attention_size_fields(fields, config.d_model, layer.attention);
    scale_constant(fields, layer.attention);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.flag("attention_bias", layer.attention.qkv_bias, false);
    fields.flag("attention_bias", layer.attention.output_bias, false);
    fields.size("intermediate_size", layer.mlp.d_ff);
    // "gelu" of old files, and "hidden_activation", mean the tanh form, as in transformers.
    fields.constant("activation", layer.mlp.activation.kind, Activation::Kind::kGeluTanh);
  }
  fields.fixed("hidden_act", {"gelu_pytorch_tanh", "gelu"});
  fields.expect("hidden_activation", "gelu_pytorch_tanh");
  fields.expect("use_bidirectional_attention", nullptr);
}

}  // namespace

Family gemma_family() {
  return {.name = "gemma",
          .model_type = "gemma",
          .architecture = "GemmaForCausalLM",
          .covers = "scaled embedding, gains of 1 + weight, GeGLU",
          .fields = gemma_fields,
          .tensors = llama_tensors(),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
