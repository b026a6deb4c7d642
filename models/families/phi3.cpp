// Phi-3 (Abdin et al. 2024): Llama with fused projections. transformers' Phi3ForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void phi3_fields(ConfigFields& fields, DecoderConfig& config) {
  size_fields(fields, config, /*absent_positions=*/4096);
  rms_norm_fields(fields, config, 1e-5);
  fields.flag("tie_word_embeddings", config.head.tied, false);
  for (auto& layer : config.layers) {
    attention_size_fields_without_head_dim(fields, config.d_model, layer.attention);
    fields.optional_size("sliding_window", layer.attention.scores.window);
    rotary_fields(
        fields, config.max_seq_len, layer.attention,
        {.is_partial = true, .bare_longrope = true, .longrope_types = {"longrope", "su", "yarn"}});
    fields.size("intermediate_size", layer.mlp.d_ff);
    activation_field(fields, "hidden_act", layer.mlp, "silu");
  }
}

}  // namespace

Family phi3_family() {
  return {.name = "phi3",
          .model_type = "phi3",
          .architecture = "Phi3ForCausalLM",
          .covers = "as Llama, fused projections, partial RoPE, window, LongRoPE",
          .fields = phi3_fields,
          .tensors = llama_tensors(
              {{{Role::kQuery, Role::kKey, Role::kValue}, "model.layers.{}.self_attn.qkv_proj"},
               {{Role::kGate, Role::kUp}, "model.layers.{}.mlp.gate_up_proj"}}),
          .buffers = rotary_buffers()};
}

}  // namespace regroup
