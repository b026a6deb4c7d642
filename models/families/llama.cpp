// Llama (Touvron et al. 2023): transformers' LlamaForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void llama_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/2048);
  rms_norm_fields(fields, config, 1e-6);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    attention_size_fields(fields, config.d_model, layer.attention);
    scale_constant(fields, layer.attention);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.flag("attention_bias", layer.attention.qkv_bias, false);
    fields.flag("attention_bias", layer.attention.output_bias, false);
    fields.size("intermediate_size", layer.mlp.d_ff);
    fields.flag("mlp_bias", layer.mlp.in_bias, false);
    fields.flag("mlp_bias", layer.mlp.out_bias, false);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
  fields.expect("sliding_window", nullptr);
}

}  // namespace

Family llama_family() {
  return {.name = "llama",
          .model_type = "llama",
          .architecture = "LlamaForCausalLM",
          .covers = "RMSNorm, RoPE, SwiGLU; biases of attention and MLP",
          .fields = llama_fields,
          .tensors = llama_tensors(),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
