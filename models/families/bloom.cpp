// BLOOM (BigScience 2022): ALiBi, a norm of the embedding. transformers' BloomForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

void bloom_fields(ConfigFields& fields, DecoderConfig& config) {
  fields.size("vocab_size", config.vocab_size);
  fields.size(fields.spelled({"hidden_size", "n_embed"}), config.d_model);
  fields.layers(fields.spelled({"n_layer", "num_hidden_layers"}), config);
  fields.size("seq_length", config.max_seq_len, 2048);  // of training; ALiBi itself has no limit
  layer_norm_fields(fields, config, "layer_norm_epsilon");
  fields.constant("a norm of the embedding", config.embedding.norm, config.layer(0).attention_in);
  fields.flag("tie_word_embeddings", config.head.tied, true);
  for (auto& layer : config.layers) {
    multi_head_fields(fields, fields.spelled({"n_head", "num_attention_heads"}), config.d_model,
                      layer.attention);
    scale_constant(fields, layer.attention);
    fields.constant("RoPE", layer.attention.rotary, std::optional<RotaryConfig>());
    fields.constant("ALiBi", layer.attention.scores.alibi,
                    std::optional<AlibiConfig>(AlibiConfig()));
    all_biases(fields, layer);
    wiring_flag(fields, "apply_residual_connection_post_layernorm", layer,
                LayerConfig::Wiring::kNormedStream, false);
    plain_mlp_fields(fields, layer.mlp);
    fields.constant("the MLP's width", layer.mlp.d_ff, 4 * config.d_model);
    fields.constant("activation", layer.mlp.activation.kind, Activation::Kind::kGeluTanh);
  }
}

}  // namespace

Family bloom_family() {
  return {.name = "bloom",
          .model_type = "bloom",
          .architecture = "BloomForCausalLM",
          .covers = "ALiBi, a norm of the embedding",
          .fields = bloom_fields,
          .tensors = {
              {{Role::kEmbedding}, "transformer.word_embeddings"},
              {{Role::kEmbeddingNorm}, "transformer.word_embeddings_layernorm"},
              {{Role::kAttentionIn}, "transformer.h.{}.input_layernorm"},
              {.roles = {Role::kQuery, Role::kKey, Role::kValue},
               .module = "transformer.h.{}.self_attention.query_key_value",
               .packing = TensorRule::Packing::kByGroup},
              {{Role::kOutput}, "transformer.h.{}.self_attention.dense"},
              {{Role::kMlpIn}, "transformer.h.{}.post_attention_layernorm"},
              {{Role::kUp}, "transformer.h.{}.mlp.dense_h_to_4h"},
              {{Role::kDown}, "transformer.h.{}.mlp.dense_4h_to_h"},
              {{Role::kFinalNorm}, "transformer.ln_f"},
              {{Role::kHead}, "lm_head"},
          }};
}

}  // namespace regroup
