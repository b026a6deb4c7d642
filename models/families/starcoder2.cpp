// StarCoder 2 (Lozhkov et al. 2024): LayerNorm, biases, plain MLP. transformers'
// Starcoder2ForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void starcoder2_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/4096);
  layer_norm_fields(fields, config, "norm_epsilon");
  fields.flag("tie_word_embeddings", config.head.tied, true);
  for (auto& layer : config.layers) {
    attention_size_fields_without_head_dim(fields, config.d_model, layer.attention);
    fields.optional_size("sliding_window", layer.attention.scores.window);
    rotary_fields(fields, config.max_seq_len, layer.attention);
    for (bool* bias : {&layer.attention.qkv_bias, &layer.attention.output_bias, &layer.mlp.in_bias,
                       &layer.mlp.out_bias})
      fields.flag("use_bias", *bias, true);
    fields.size("intermediate_size", layer.mlp.d_ff);
    plain_mlp_fields(fields, layer.mlp);
    activation_field(fields, "hidden_act", layer.mlp, "gelu_pytorch_tanh");
  }
}

}  // namespace

Family starcoder2_family() {
  return {.name = "starcoder2",
          .model_type = "starcoder2",
          .architecture = "Starcoder2ForCausalLM",
          .covers = "LayerNorm, biases, plain MLP, window",
          .fields = starcoder2_fields,
          .tensors = llama_tensors({{{Role::kUp}, "model.layers.{}.mlp.c_fc"},
                                    {{Role::kDown}, "model.layers.{}.mlp.c_proj"}}),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
