// models/decoder_config.h: a decoder as data. The decoder reads it; families translate it from and
// to Hugging Face's config.json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "framework/parameters/flat_parameters.h"

namespace regroup {

/// Scaling of rotary frequencies for longer contexts.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;  // how many times longer
  double low_freq_factor =
      1;  // kLlama3 (Llama 3.1 reference code): wavelengths above original_max_seq_len /
  double high_freq_factor =
      4;  // low_freq_factor are divided by factor, below / high_freq_factor kept
  int64_t original_max_seq_len = 8192;

  bool operator==(const RopeScaling&) const = default;
};

/// A Llama-style decoder: RMSNorm before attention and MLP, RoPE, SwiGLU, no biases.
struct DecoderConfig {
  int64_t n_layer = 0;
  int64_t d_model = 0;
  int64_t n_head = 0;
  std::vector<int64_t> n_kv_head;  // one per layer: n_head is MHA, 1 is MQA, between them GQA
  int64_t head_dim = 0;
  int64_t d_ff = 0;
  int64_t vocab_size = 0;
  int64_t max_seq_len = 2048;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  double norm_eps = 1e-5;
  bool tie_embeddings = false;

  /// Query heads that share one K/V head in this layer.
  int64_t group_size(int64_t layer) const { return n_head / n_kv_head[static_cast<size_t>(layer)]; }
  /// True when every layer has the same number of K/V heads.
  bool uniform_kv_heads() const;
  /// Least common multiple of the layers' K/V heads.
  int64_t kv_head_multiple() const;
  /// Bytes of K/V cache per token, with bytes_per_number bytes a number.
  int64_t kv_bytes_per_token(int64_t bytes_per_number) const;
  int64_t n_parameters() const;

  /// Everything that is wrong with the numbers, by config key; empty if the config is valid.
  std::vector<std::string> problems() const;

  /// Every field by name, its value printed exactly: what operator== and a run's identity compare.
  std::vector<std::pair<std::string, std::string>> fields() const;
  bool operator==(const DecoderConfig& other) const { return fields() == other.fields(); }
};

/// The K/V heads of all layers as configs write them: "8" or "8,4,4,1".
std::string kv_heads_text(const std::vector<int64_t>& n_kv_head);

/// Expands one number, or one per layer, to one per layer. Throws a request Error if the count is
/// neither 1 nor n_layer, or if a number does not divide n_head.
std::vector<int64_t> kv_heads_per_layer(const std::vector<int64_t>& n_kv_head, int64_t n_layer,
                                        int64_t n_head);

/// The parameters of the decoder's blocks: embedding, one block a layer, final norm (and head
/// unless tied). Names: "embedding.weight", "layers.0.attention.q_proj.weight",
/// "final_norm.weight", "head.weight".
struct BlockSpec {
  std::vector<ParameterSpec> parameters;
  std::vector<OperandSpec> operands;
};
std::vector<BlockSpec> decoder_blocks(const DecoderConfig& config);

}  // namespace regroup
