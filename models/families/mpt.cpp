// MPT (MosaicML 2023): ALiBi, no biases. transformers' MptForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

/// attn_config, an object in the file.
void mpt_attention_fields(ConfigFields& fields, AttentionConfig& attention) {
  fields.fixed("attn_type", {"multihead_attention"});
  fields.fixed("prefix_lm", {false});
  fields.fixed("qk_ln", {false});
  fields.fixed("alibi", {true});
  fields.fixed("alibi_bias_max", {8});  // transformers computes with 8 whatever it says
  fields.constant("ALiBi", attention.scores.alibi, std::optional<AlibiConfig>(AlibiConfig()));
  fields.optional_number("clip_qkv", attention.clip_qkv);
  const double plain = ScoreRule::plain(attention.head_dim).scale;
  std::optional<double> scale = attention.scores.scale;
  if (scale == plain) scale = std::nullopt;
  fields.optional_number("softmax_scale", scale);
  attention.scores.scale = scale.value_or(plain);
}

void mpt_fields(ConfigFields& fields, DecoderConfig& config) {
  fields.size("vocab_size", config.vocab_size);
  fields.size("d_model", config.d_model);
  fields.layers("n_layers", config);
  fields.size("max_seq_len", config.max_seq_len, 2048);
  NormConfig norm{Norm::Kind::kLayer, config.final_norm->eps};
  fields.number("layer_norm_epsilon", norm.eps, 1e-5);
  fields.constant("norms", config.final_norm, std::optional<NormConfig>(norm));
  fields.flag("tie_word_embeddings", config.head.tied, true);
  for (auto& layer : config.layers) {
    fields.constant("norms", layer.attention_in, std::optional<NormConfig>(norm));
    fields.constant("norms", layer.mlp_in, std::optional<NormConfig>(norm));
    multi_head_fields(fields, "n_heads", config.d_model, layer.attention);
    fields.constant("RoPE", layer.attention.rotary, std::optional<RotaryConfig>());
    fields.object("attn_config",
                  [&](ConfigFields& own) { mpt_attention_fields(own, layer.attention); });
    plain_mlp_fields(fields, layer.mlp);
    fields.constant("the MLP's width", layer.mlp.d_ff, 4 * config.d_model);
    fields.constant("activation", layer.mlp.activation.kind, Activation::Kind::kGelu);
  }
  fields.fixed("expansion_ratio", {4});
  fields.fixed("no_bias", {true});
  fields.expect("logit_scale", nullptr);
}

}  // namespace

Family mpt_family() {
  return {.name = "mpt",
          .model_type = "mpt",
          .architecture = "MptForCausalLM",
          .covers = "ALiBi, no biases, clip_qkv, softmax_scale",
          .fields = mpt_fields,
          .tensors = {
              {{Role::kEmbedding}, "transformer.wte"},
              {{Role::kAttentionIn}, "transformer.blocks.{}.norm_1"},
              {{Role::kQuery, Role::kKey, Role::kValue}, "transformer.blocks.{}.attn.Wqkv"},
              {{Role::kOutput}, "transformer.blocks.{}.attn.out_proj"},
              {{Role::kMlpIn}, "transformer.blocks.{}.norm_2"},
              {{Role::kUp}, "transformer.blocks.{}.ffn.up_proj"},
              {{Role::kDown}, "transformer.blocks.{}.ffn.down_proj"},
              {{Role::kFinalNorm}, "transformer.norm_f"},
              {{Role::kHead}, "lm_head"},
          }};
}

}  // namespace regroup
