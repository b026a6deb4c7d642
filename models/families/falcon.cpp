// Falcon (Almazrouei et al. 2023): the 7B (MQA, parallel), 40B (GQA, two norms) and RW (ALiBi)
// shapes. transformers' FalconForCausalLM.
#include "models/families/family.h"
#include "models/families/rotary_fields.h"
#include "models/families/shared_fields.h"
#include "models/families/shared_tensors.h"

namespace regroup {
namespace {

/// What the flags of config.json mean for every layer.
struct Shape {
  bool is_new = false;  // the 40B architecture: GQA, always parallel
  bool is_parallel = true;
  int64_t n_norms = 1;  // before parallel attention and MLP
  bool is_mqa = true;   // outside the 40B architecture
  bool has_alibi = false, has_bias = false;
};

Shape shape_of(const LayerConfig& layer) {
  const auto& attention = layer.attention;
  Shape shape;
  shape.is_parallel = layer.wiring == LayerConfig::Wiring::kParallel;
  shape.n_norms = shape.is_parallel && layer.mlp_in ? 2 : 1;
  shape.is_mqa = attention.n_kv_head == 1;
  const bool is_gqa = !shape.is_mqa && attention.n_kv_head != attention.n_head;
  shape.is_new = shape.is_parallel && (shape.n_norms == 2 || is_gqa);
  shape.has_alibi = attention.scores.alibi.has_value();
  shape.has_bias = attention.qkv_bias;
  return shape;
}

void shape_fields(ConfigFields& fields, Shape& shape) {
  fields.flag("new_decoder_architecture", shape.is_new, false);
  fields.flag("parallel_attn", shape.is_parallel, true);
  fields.flag("multi_query", shape.is_mqa, true);
  fields.flag("alibi", shape.has_alibi, false);
  fields.flag("bias", shape.has_bias, false);
  if (fields.json() && shape.is_new && !shape.is_parallel)
    fields.json()->refuse("parallel_attn", "true with new_decoder_architecture");
  if (shape.is_new) fields.size("num_ln_in_parallel_attn", shape.n_norms, 2, {1, 2});
}

void falcon_attention_fields(ConfigFields& fields, const DecoderConfig& config, const Shape& shape,
                             AttentionConfig& attention) {
  const auto n_kv_head = attention.n_kv_head;
  query_head_fields(fields, fields.spelled({"num_attention_heads", "n_head"}), config.d_model,
                    attention);
  if (shape.is_new) {
    fields.size(fields.spelled({"num_kv_heads", "n_head_kv"}), attention.n_kv_head,
                attention.n_head);
  } else if (!fields.is_writing()) {
    attention.n_kv_head = shape.is_mqa ? 1 : attention.n_head;
  } else if (n_kv_head != 1 && n_kv_head != attention.n_head) {
    fields.add_conflict("grouped K/V heads after one another with the MLP");
  }
  scale_constant(fields, attention);
  attention.qkv_bias = attention.output_bias = shape.has_bias;
  const AlibiConfig alibi{attention.scores.scale, /*rounds=*/true};
  if (shape.has_alibi) {
    fields.constant("ALiBi", attention.scores.alibi, std::optional<AlibiConfig>(alibi));
    fields.constant("RoPE", attention.rotary, std::optional<RotaryConfig>());
  } else {
    rotary_fields(fields, config.max_seq_len, attention);
  }
}

void falcon_fields(ConfigFields& fields, DecoderConfig& config) {
  fields.size("vocab_size", config.vocab_size);
  fields.size(fields.spelled({"hidden_size", "n_embed"}), config.d_model);
  fields.layers(fields.spelled({"num_hidden_layers", "n_layer"}), config);
  fields.size("max_position_embeddings", config.max_seq_len, 2048);
  fields.flag("tie_word_embeddings", config.head.tied, true);
  Shape shape = fields.is_writing() ? shape_of(config.layer(0)) : Shape();
  shape_fields(fields, shape);
  layer_norm_fields(fields, config, "layer_norm_epsilon");
  for (auto& layer : config.layers) {
    const bool shares_norm = shape.is_parallel && shape.n_norms == 1;
    layer.wiring =
        shape.is_parallel ? LayerConfig::Wiring::kParallel : LayerConfig::Wiring::kSequential;
    if (shares_norm) layer.mlp_in = std::nullopt;
    falcon_attention_fields(fields, config, shape, layer.attention);
    layer.mlp.in_bias = layer.mlp.out_bias = shape.has_bias;
    plain_mlp_fields(fields, layer.mlp);
    inner_size_field(fields, "ffn_hidden_size", config.d_model, layer.mlp);
    activation_field(fields, "activation", layer.mlp, "gelu");
  }
}

bool has_two_norms(const DecoderConfig& config) {
  return config.layer(0).wiring == LayerConfig::Wiring::kParallel && config.layer(0).mlp_in;
}

bool has_one_norm(const DecoderConfig& config) { return !has_two_norms(config); }

}  // namespace

Family falcon_family() {
  return {.name = "falcon",
          .model_type = "falcon",
          .architecture = "FalconForCausalLM",
          .covers = "the 7B, 11B, 40B and RW shapes",
          .fields = falcon_fields,
          .tensors =
              {
                  {{Role::kEmbedding}, "transformer.word_embeddings"},
                  {.roles = {Role::kAttentionIn},
                   .module = "transformer.h.{}.ln_attn",
                   .applies = has_two_norms},
                  {.roles = {Role::kAttentionIn},
                   .module = "transformer.h.{}.input_layernorm",
                   .applies = has_one_norm},
                  {.roles = {Role::kQuery, Role::kKey, Role::kValue},
                   .module = "transformer.h.{}.self_attention.query_key_value",
                   .packing = TensorRule::Packing::kByGroup},
                  {{Role::kOutput}, "transformer.h.{}.self_attention.dense"},
                  {.roles = {Role::kMlpIn},
                   .module = "transformer.h.{}.ln_mlp",
                   .applies = has_two_norms},
                  {.roles = {Role::kMlpIn},
                   .module = "transformer.h.{}.post_attention_layernorm",
                   .applies = has_one_norm},
                  {{Role::kUp}, "transformer.h.{}.mlp.dense_h_to_4h"},
                  {{Role::kDown}, "transformer.h.{}.mlp.dense_4h_to_h"},
                  {{Role::kFinalNorm}, "transformer.ln_f"},
                  {{Role::kHead}, "lm_head"},
              },
          .buffers = rotary_buffers()};
}

}  // namespace regroup
