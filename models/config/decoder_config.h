// models/config/decoder_config.h: a decoder as data. The decoder computes what it says; families
// translate it from and to Hugging Face's config.json. An optional that is set means "has it".
// Every type compares field by field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "framework/functions/linear.h"
#include "framework/kernels/score_rule.h"

namespace regroup {

/// A norm of rows. The gain is gain_offset plus the stored weight (Gemma stores it less 1).
struct NormConfig {
  Norm::Kind kind = Norm::Kind::kRms;
  double eps = 1e-5;
  bool has_gain = true, has_bias = false;
  double gain_offset = 0;

  bool operator==(const NormConfig&) const = default;
};

/// Scaling of rotary frequencies for longer contexts.
struct RopeScaling {
  enum class Kind {
    kNone,
    kLinear,    // every frequency divided by factor
    kDynamic,   // acts beyond max_seq_len only, where the decoder does not compute
    kLlama3,    // Llama 3.1's reference code
    kYarn,      // Peng et al. 2023
    kLongRope,  // Ding et al. 2024
  };
  Kind kind = Kind::kNone;
  double factor = 1;  // how many times longer
  // kLlama3: wavelengths above original_max_seq_len / low_freq_factor are divided by factor, those
  // below original_max_seq_len / high_freq_factor stay.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_seq_len = 8192;  // of kLlama3, kYarn and kLongRope
  // kYarn: dims that turn more than beta_fast times within the original context stay, those that
  // turn less than beta_slow times are divided by factor. truncate: the bounds are whole dims.
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;
  // kLongRope: divisors of the frequencies, one per plane, up to the original context and beyond.
  std::vector<double> short_factor = {}, long_factor = {};
  double attention_factor = 1;  // of cos and sin; kYarn and kLongRope

  bool operator==(const RopeScaling&) const = default;
};

/// Rotary position embedding (Su et al. 2021) of the first dims of each head, half-rotation layout.
struct RotaryConfig {
  int64_t dims = 0;
  double theta = 10000;
  RopeScaling scaling = {};

  bool operator==(const RotaryConfig&) const = default;
};

/// A norm of queries and keys before rotation.
struct QkNormConfig {
  enum class Over {
    kHead,      // of each head, with one gain for all (Qwen3)
    kHeads,     // of each head, with a gain for each (StableLM)
    kAllHeads,  // of all heads together (OLMo 2)
  };
  Over over = Over::kHead;
  NormConfig norm = {};

  bool operator==(const QkNormConfig&) const = default;
};

/// n_kv_head == n_head is MHA, 1 is MQA, between them GQA (Ainslie et al. 2023, fig. 2).
struct AttentionConfig {
  int64_t n_head = 0, n_kv_head = 0, head_dim = 0;
  bool qkv_bias = false, output_bias = false;
  // The largest absolute value of queries, keys and values.
  std::optional<double> clip_qkv = std::nullopt;
  std::optional<QkNormConfig> qk_norm = std::nullopt;
  std::optional<RotaryConfig> rotary = std::nullopt;
  ScoreRule scores = {};

  /// Query heads that share one K/V head.
  int64_t group_size() const { return n_head / n_kv_head; }
  /// Rows of the query, key and value projections together.
  int64_t qkv_width() const { return (n_head + 2 * n_kv_head) * head_dim; }
  int64_t rotary_dims() const { return rotary ? rotary->dims : 0; }
  bool operator==(const AttentionConfig&) const = default;
};

struct MlpConfig {
  int64_t d_ff = 0;
  Activation activation;
  bool in_bias = false, out_bias = false;

  /// Rows of the projections into the MLP.
  int64_t in_width() const { return activation.gated ? 2 * d_ff : d_ff; }
  bool operator==(const MlpConfig&) const = default;
};

/// The residual stream x through attention A and MLP M, with norms where they are set:
struct LayerConfig {
  enum class Wiring {
    kSequential,    // y = x + out(A(in(x))), then y + out(M(in(y)))
    kParallel,      // x + A(in(x)) + M(in(x)); the MLP shares attention's norm unless it has one
    kNormedStream,  // as sequential, but the norm's output is the stream: in(x) + A(in(x)) (BLOOM)
    kNormAfter,     // out(x + A(x)), then out(y + M(y)) (OPT-350m)
  };
  Wiring wiring = Wiring::kSequential;
  std::optional<NormConfig> attention_in = NormConfig();
  std::optional<NormConfig> attention_out = std::nullopt;
  AttentionConfig attention;
  std::optional<NormConfig> mlp_in = NormConfig();
  std::optional<NormConfig> mlp_out = std::nullopt;
  MlpConfig mlp;

  bool operator==(const LayerConfig&) const = default;
};

struct EmbeddingConfig {
  double scale = 1;
  // The row of position 0 in the table of learned positions; without it there is no table.
  std::optional<int64_t> first_position = std::nullopt;
  // The width of the embedding table where projections lead to d_model and back.
  std::optional<int64_t> width = std::nullopt;
  std::optional<NormConfig> norm = std::nullopt;

  bool operator==(const EmbeddingConfig&) const = default;
};

struct HeadConfig {
  bool tied = false;  // the head is the embedding
  bool bias = false;
  double scale = 1;  // of the logits
  std::optional<double> soft_cap = std::nullopt;

  bool operator==(const HeadConfig&) const = default;
};

struct DecoderConfig {
  int64_t d_model = 0;
  int64_t vocab_size = 0;
  int64_t max_seq_len = 2048;
  EmbeddingConfig embedding;
  std::vector<LayerConfig> layers;
  std::optional<NormConfig> final_norm = NormConfig();
  HeadConfig head;

  int64_t n_layer() const { return static_cast<int64_t>(layers.size()); }
  const LayerConfig& layer(int64_t index) const { return layers[static_cast<size_t>(index)]; }
  LayerConfig& layer(int64_t index) { return layers[static_cast<size_t>(index)]; }
  int64_t embedding_width() const { return embedding.width.value_or(d_model); }
  /// The K/V heads of each layer.
  std::vector<int64_t> n_kv_head() const;
  /// n_kv_head: one number per layer.
  void set_n_kv_head(const std::vector<int64_t>& n_kv_head);
  /// True when every layer has the same number of K/V heads.
  bool uniform_kv_heads() const;
  /// Least common multiple of the layers' K/V heads.
  int64_t kv_head_multiple() const;
  /// Bytes of K/V cache per token, with bytes_per_number bytes a number.
  int64_t kv_bytes_per_token(int64_t bytes_per_number) const;

  /// Everything that is wrong with the numbers, by config key; empty if the config is valid.
  std::vector<std::string> problems() const;

  bool operator==(const DecoderConfig&) const = default;
};

/// The K/V heads of all layers as configs write them: "8" or "8,4,4,1".
std::string kv_heads_text(const std::vector<int64_t>& n_kv_head);

/// "MHA" or "MQA" where every layer is that, else "GQA".
std::string attention_kind(const DecoderConfig& config);

/// Expands one number of K/V heads, or one per layer, to one per layer. divided: the heads of each
/// layer that share them, of this kind, such as "query heads". Throws a request Error if the count
/// is neither 1 nor the number of layers, or if a number does not divide its layer's heads.
std::vector<int64_t> kv_heads_per_layer(const std::vector<int64_t>& n_kv_head,
                                        const std::vector<int64_t>& divided,
                                        const std::string& kind);

}  // namespace regroup
