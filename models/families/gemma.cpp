// Gemma (Gemma team 2024): scaled embedding, gains of 1 + weight, GeGLU. transformers'
// GemmaForCausalLM.
#include <cmath>

#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void gemma_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/8192);
  fields.flag("tie_word_embeddings", config.head.tied, true);
  fields.constant("the embedding's scale", config.embedding.scale,
                  std::sqrt(static_cast<double>(config.d_model)));
  NormConfig norm{Norm::Kind::kRms, config.final_norm->eps};
  norm.gain_offset = 1;
  fields.number("rms_norm_eps", norm.eps, 1e-6);
  const auto present = std::optional<NormConfig>(norm);
  fields.constant("norms", config.final_norm, present);
  for (auto& layer : config.layers) {
    fields.constant("norms", layer.attention_in, present);
    fields.constant("norms", layer.mlp_in, present);
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
