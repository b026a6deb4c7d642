// Qwen1.5 to Qwen2.5 (Yang et al. 2024): Llama with biases of queries, keys and values, and a
// window in the upper layers where asked for. transformers' Qwen2ForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void qwen2_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/32768);
  rms_norm_fields(fields, config, 1e-6);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    attention_size_fields_without_head_dim(fields, config.d_model, layer.attention);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    fields.constant("biases of queries, keys and values", layer.attention.qkv_bias, true);
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
  layer_window_fields(fields, config);
}

}  // namespace

Family qwen2_family() {
  return {.name = "qwen2",
          .model_type = "qwen2",
          .architecture = "Qwen2ForCausalLM",
          .covers = "as Llama, biases of q, k and v; windows by layer",
          .fields = qwen2_fields,
          .tensors = llama_tensors(),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
