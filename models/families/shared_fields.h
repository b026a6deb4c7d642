// models/families/shared_fields.h: fields that many architectures spell alike.
#pragma once

#include <torch/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/families/config_fields.h"

namespace regroup {

/// vocab_size, hidden_size, num_hidden_layers, max_position_embeddings.
void size_fields(ConfigFields& fields, DecoderConfig& config, int64_t absent_positions);

/// num_attention_heads, num_key_value_heads (default: as many) and head_dim (default: d_model /
/// n_head).
void attention_size_fields(ConfigFields& fields, int64_t d_model, AttentionConfig& attention);
/// attention_size_fields for classes without head_dim: it is d_model / n_head, and scores are
/// divided by its root.
void attention_size_fields_without_head_dim(ConfigFields& fields, int64_t d_model,
                                            AttentionConfig& attention);

/// Query heads of d_model / n_head dims.
void query_head_fields(ConfigFields& fields, const std::string& key, int64_t d_model,
                       AttentionConfig& attention);
/// The sizes of attention for a class without a field for K/V heads, which has as many as heads.
void multi_head_fields(ConfigFields& fields, const std::string& key, int64_t d_model,
                       AttentionConfig& attention);
/// Scores are divided by sqrt(head_dim).
void scale_constant(ConfigFields& fields, AttentionConfig& attention);
/// Gemma's sizes, scaled embedding and final norm. -> the norm of its other places: gains of 1 +
/// weight.
std::optional<NormConfig> gemma_stem_fields(ConfigFields& fields, DecoderConfig& config);
/// Every projection has a bias.
void all_biases(ConfigFields& fields, LayerConfig& layer);
/// A flag that chooses a wiring; sequential where it is false.
void wiring_flag(ConfigFields& fields, const std::string& key, LayerConfig& layer,
                 LayerConfig::Wiring if_set, bool absent);
/// Two products with a function between, not gated.
void plain_mlp_fields(ConfigFields& fields, MlpConfig& mlp);
/// The MLP's width; null means 4 d_model.
void inner_size_field(ConfigFields& fields, const std::string& key, int64_t d_model,
                      MlpConfig& mlp);

/// The function between the MLP's products, by its name in transformers. absent: the default of the
/// class, which is also the name that is written for its function.
void activation_field(ConfigFields& fields, const std::string& key, MlpConfig& mlp,
                      const std::string& absent);

/// RMSNorm before attention and MLP and after the last layer, of one epsilon.
void rms_norm_fields(ConfigFields& fields, DecoderConfig& config, double absent_eps);
/// LayerNorm with gain and bias in the same places.
void layer_norm_fields(ConfigFields& fields, DecoderConfig& config, const std::string& eps_key);

/// use_sliding_window, sliding_window, max_window_layers and layer_types.
void layer_window_fields(ConfigFields& fields, DecoderConfig& config);
/// Which layers have the window, as layer_types says; absent: the class's own rule.
void layer_type_fields(ConfigFields& fields, DecoderConfig& config, std::optional<int64_t> window,
                       const std::function<bool(int64_t layer)>& absent);

/// Masks that old files store: a lower triangle of ones, and the value of what it hides.
bool is_causal_mask(const DecoderConfig& config, const torch::Tensor& stored);
bool is_mask_value(const DecoderConfig& config, const torch::Tensor& stored);

/// Keys of config.json that change nothing that Regroup computes, in every architecture.
const std::vector<std::string>& harmless_keys();

}  // namespace regroup
