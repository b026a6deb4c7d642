// GPT-2 (Radford et al. 2019): learned positions, fused projections, matrices as [d_in, d_out].
// transformers' GPT2LMHeadModel.
#include "models/families/family.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

/// scale_attn_weights divides scores by sqrt(head_dim), scale_attn_by_inverse_layer_idx by the
/// layer's number.
void scale_fields(ConfigFields& fields, DecoderConfig& config) {
  const auto scale_of = [](const LayerConfig& layer) { return layer.attention.scores.scale; };
  bool is_scaled = true, by_layer = false;
  if (fields.is_writing()) {
    const auto& first = config.layer(0);
    is_scaled = scale_of(first) == ScoreRule::plain(first.attention.head_dim).scale;
    by_layer = config.n_layer() > 1 && scale_of(config.layer(1)) != scale_of(first);
  }
  fields.flag("scale_attn_weights", is_scaled, true);
  fields.flag("scale_attn_by_inverse_layer_idx", by_layer, false);
  for (int64_t i = 0; i < config.n_layer(); ++i) {
    auto& attention = config.layer(i).attention;
    const double scale = is_scaled ? ScoreRule::plain(attention.head_dim).scale : 1;
    fields.constant("attention scale", attention.scores.scale,
                    by_layer ? scale / static_cast<double>(i + 1) : scale);
  }
}

void gpt2_fields(ConfigFields& fields, DecoderConfig& config) {
  fields.size("vocab_size", config.vocab_size);
  fields.size("n_embd", config.d_model);
  fields.layers("n_layer", config);
  fields.size("n_positions", config.max_seq_len, 1024);
  auto n_ctx = config.max_seq_len;
  fields.size("n_ctx", n_ctx, n_ctx);  // the same, for programs that read older files
  layer_norm_fields(fields, config, "layer_norm_epsilon");
  fields.flag("tie_word_embeddings", config.head.tied, true);
  fields.constant("learned positions", config.embedding.first_position, std::optional<int64_t>(0));
  for (auto& layer : config.layers) {
    multi_head_fields(fields, "n_head", config.d_model, layer.attention);
    fields.constant("RoPE", layer.attention.rotary, std::optional<RotaryConfig>());
    all_biases(fields, layer);
    plain_mlp_fields(fields, layer.mlp);
    inner_size_field(fields, "n_inner", config.d_model, layer.mlp);
    activation_field(fields, "activation_function", layer.mlp, "gelu_new");
  }
  scale_fields(fields, config);
  fields.expect("add_cross_attention", false);
}

}  // namespace

Family gpt2_family() {
  return {
      .name = "gpt2",
      .model_type = "gpt2",
      .architecture = "GPT2LMHeadModel",
      .covers = "learned positions, fused Conv1D projections, scores scaled by layer",
      .fields = gpt2_fields,
      .tensors =
          {
              {{Role::kEmbedding}, "transformer.wte"},
              {{Role::kPositions}, "transformer.wpe"},
              {{Role::kAttentionIn}, "transformer.h.{}.ln_1"},
              {.roles = {Role::kQuery, Role::kKey, Role::kValue},
               .module = "transformer.h.{}.attn.c_attn",
               .transposed = true},
              {.roles = {Role::kOutput},
               .module = "transformer.h.{}.attn.c_proj",
               .transposed = true},
              {{Role::kMlpIn}, "transformer.h.{}.ln_2"},
              {.roles = {Role::kUp}, .module = "transformer.h.{}.mlp.c_fc", .transposed = true},
              {.roles = {Role::kDown}, .module = "transformer.h.{}.mlp.c_proj", .transposed = true},
              {{Role::kFinalNorm}, "transformer.ln_f"},
              {{Role::kHead}, "lm_head"},
          },
      .buffers = {{"transformer.h.{}.attn.bias", is_causal_mask},
                  {"transformer.h.{}.attn.masked_bias", is_mask_value}}};
}

}  // namespace regroup
