// OPT (Zhang et al. 2022): learned positions from row 2 on, ReLU; the 350M model has norms after
// the sums and a narrower embedding. transformers' OPTForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void opt_fields(ConfigFields& fields, DecoderConfig& config) {
  using Wiring = LayerConfig::Wiring;
  size_fields(fields, config, /*absent_positions=*/2048);
  fields.flag("tie_word_embeddings", config.head.tied, true);
  fields.constant("learned positions", config.embedding.first_position, std::optional<int64_t>(2));
  int64_t width = config.embedding_width();
  fields.size("word_embed_proj_dim", width, config.d_model);
  if (width != config.d_model) config.embedding.width = width;

  bool is_before = config.layer(0).wiring != Wiring::kNormAfter;
  fields.flag("do_layer_norm_before", is_before, true);
  bool is_removed = is_before && !config.final_norm;
  fields.flag("_remove_final_layer_norm", is_removed, false);
  NormConfig norm{Norm::Kind::kLayer, 1e-5, true, true};
  if (fields.is_writing())
    norm = *(is_before ? config.layer(0).attention_in : config.layer(0).attention_out);
  fields.flag("layer_norm_elementwise_affine", norm.has_gain, true);
  norm.has_bias = norm.has_gain;
  const auto where = [&](bool there) {
    return there ? std::optional<NormConfig>(norm) : std::nullopt;
  };
  fields.constant("norms", config.final_norm, where(is_before && !is_removed));
  for (auto& layer : config.layers) {
    fields.constant("wiring", layer.wiring, is_before ? Wiring::kSequential : Wiring::kNormAfter);
    fields.constant("norms", layer.attention_in, where(is_before));
    fields.constant("norms", layer.mlp_in, where(is_before));
    fields.constant("norms", layer.attention_out, where(!is_before));
    fields.constant("norms", layer.mlp_out, where(!is_before));
    multi_head_fields(fields, "num_attention_heads", config.d_model, layer.attention);
    scale_constant(fields, layer.attention);
    fields.constant("RoPE", layer.attention.rotary, std::optional<RotaryConfig>());
    for (bool* bias : {&layer.attention.qkv_bias, &layer.attention.output_bias, &layer.mlp.in_bias,
                       &layer.mlp.out_bias})
      fields.flag("enable_bias", *bias, true);
    plain_mlp_fields(fields, layer.mlp);
    fields.size("ffn_dim", layer.mlp.d_ff);
    activation_field(fields, "activation_function", layer.mlp, "relu");
  }
}

}  // namespace

Family opt_family() {
  return {.name = "opt",
          .model_type = "opt",
          .architecture = "OPTForCausalLM",
          .covers = "learned positions, norms before or after, a narrower embedding",
          .fields = opt_fields,
          .tensors = {
              {{Role::kEmbedding}, "model.decoder.embed_tokens"},
              {{Role::kPositions}, "model.decoder.embed_positions"},
              {{Role::kEmbeddingIn}, "model.decoder.project_in"},
              {{Role::kAttentionIn}, "model.decoder.layers.{}.self_attn_layer_norm"},
              {{Role::kAttentionOut}, "model.decoder.layers.{}.self_attn_layer_norm"},
              {{Role::kQuery}, "model.decoder.layers.{}.self_attn.q_proj"},
              {{Role::kKey}, "model.decoder.layers.{}.self_attn.k_proj"},
              {{Role::kValue}, "model.decoder.layers.{}.self_attn.v_proj"},
              {{Role::kOutput}, "model.decoder.layers.{}.self_attn.out_proj"},
              {{Role::kMlpIn}, "model.decoder.layers.{}.final_layer_norm"},
              {{Role::kMlpOut}, "model.decoder.layers.{}.final_layer_norm"},
              {{Role::kUp}, "model.decoder.layers.{}.fc1"},
              {{Role::kDown}, "model.decoder.layers.{}.fc2"},
              {{Role::kFinalNorm}, "model.decoder.final_layer_norm"},
              {{Role::kEmbeddingOut}, "model.decoder.project_out"},
              {{Role::kHead}, "lm_head"},
          }};
}

}  // namespace regroup
