// GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): parallel residual, partial RoPE,
// fused projections by head. transformers' GPTNeoXForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void gpt_neox_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/2048);
  layer_norm_fields(fields, config, "layer_norm_eps");
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    auto& attention = layer.attention;
    multi_head_fields(fields, "num_attention_heads", config.d_model, attention);
    scale_constant(fields, attention);
    rotary_fields(fields, config.max_seq_len, attention,
                  {.is_partial = true,
                   .share = 0.25,
                   .share_key = "rotary_pct",
                   .theta_key = "rotary_emb_base"});
    fields.flag("attention_bias", attention.qkv_bias, true);
    fields.flag("attention_bias", attention.output_bias, true);
    wiring_flag(fields, "use_parallel_residual", layer, LayerConfig::Wiring::kParallel, true);
    plain_mlp_fields(fields, layer.mlp);
    fields.constant("biases", layer.mlp.in_bias, true);
    fields.constant("biases", layer.mlp.out_bias, true);
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "gelu");
  }
}

}  // namespace

Family gpt_neox_family() {
  return {.name = "gpt_neox",
          .model_type = "gpt_neox",
          .architecture = "GPTNeoXForCausalLM",
          .covers = "fused projections by head, partial RoPE, parallel or sequential",
          .fields = gpt_neox_fields,
          .tensors =
              {
                  {{Role::kEmbedding}, "gpt_neox.embed_in"},
                  {{Role::kAttentionIn}, "gpt_neox.layers.{}.input_layernorm"},
                  {.roles = {Role::kQuery, Role::kKey, Role::kValue},
                   .module = "gpt_neox.layers.{}.attention.query_key_value",
                   .packing = TensorRule::Packing::kByGroup},
                  {{Role::kOutput}, "gpt_neox.layers.{}.attention.dense"},
                  {{Role::kMlpIn}, "gpt_neox.layers.{}.post_attention_layernorm"},
                  {{Role::kUp}, "gpt_neox.layers.{}.mlp.dense_h_to_4h"},
                  {{Role::kDown}, "gpt_neox.layers.{}.mlp.dense_4h_to_h"},
                  {{Role::kFinalNorm}, "gpt_neox.final_layer_norm"},
                  {{Role::kHead}, "embed_out"},
              },
          .buffers = {{"gpt_neox.layers.{}.attention.bias", is_causal_mask},
                      {"gpt_neox.layers.{}.attention.masked_bias", is_mask_value},
                      {"gpt_neox.layers.{}.attention.rotary_emb.inv_freq", are_rope_frequencies}}};
}

}  // namespace regroup
