// GPT-J (Wang and Komatsuzaki 2021): parallel residual, RoPE of neighbouring dims. transformers'
// GPTJForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void gptj_fields(ConfigFields& fields, DecoderConfig& config) {
  fields.size("vocab_size", config.vocab_size);
  fields.size("n_embd", config.d_model);
  fields.layers("n_layer", config);
  fields.size("n_positions", config.max_seq_len, 2048);
  layer_norm_fields(fields, config, "layer_norm_epsilon");
  fields.flag("tie_word_embeddings", config.head.tied, false);
  fields.constant("the head's bias", config.head.bias, true);
  for (auto& layer : config.layers) {
    fields.constant("wiring", layer.wiring, LayerConfig::Wiring::kParallel);
    fields.constant("norms", layer.mlp_in, std::optional<NormConfig>());
    multi_head_fields(fields, "n_head", config.d_model, layer.attention);
    scale_constant(fields, layer.attention);
    RotaryConfig rotary = layer.attention.rotary.value_or(RotaryConfig());
    if (!fields.is_writing()) rotary = {};
    fields.size("rotary_dim", rotary.dims, 64);
    fields.constant("RoPE", layer.attention.rotary, std::optional<RotaryConfig>(rotary));
    plain_mlp_fields(fields, layer.mlp);
    fields.constant("biases", layer.mlp.in_bias, true);
    fields.constant("biases", layer.mlp.out_bias, true);
    inner_size_field(fields, "n_inner", config.d_model, layer.mlp);
    activation_field(fields, "activation_function", layer.mlp, "gelu_new");
  }
}

}  // namespace

Family gptj_family() {
  return {.name = "gptj",
          .model_type = "gptj",
          .architecture = "GPTJForCausalLM",
          .covers = "RoPE of neighbouring dims, parallel residual",
          .fields = gptj_fields,
          .tensors =
              {
                  {{Role::kEmbedding}, "transformer.wte"},
                  {{Role::kAttentionIn}, "transformer.h.{}.ln_1"},
                  {.roles = {Role::kQuery},
                   .module = "transformer.h.{}.attn.q_proj",
                   .interleaved_rotary = true},
                  {.roles = {Role::kKey},
                   .module = "transformer.h.{}.attn.k_proj",
                   .interleaved_rotary = true},
                  {{Role::kValue}, "transformer.h.{}.attn.v_proj"},
                  {{Role::kOutput}, "transformer.h.{}.attn.out_proj"},
                  {{Role::kUp}, "transformer.h.{}.mlp.fc_in"},
                  {{Role::kDown}, "transformer.h.{}.mlp.fc_out"},
                  {{Role::kFinalNorm}, "transformer.ln_f"},
                  {{Role::kHead}, "lm_head"},
              },
          .buffers = {{"transformer.h.{}.attn.bias", is_causal_mask},
                      {"transformer.h.{}.attn.masked_bias", is_mask_value}}};
}

}  // namespace regroup
