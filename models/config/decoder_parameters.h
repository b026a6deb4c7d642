// models/config/decoder_parameters.h: the parameters of a decoder, known by their role.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "framework/parameters/flat_parameters.h"
#include "models/config/decoder_config.h"

namespace regroup {

/// What a parameter does in the decoder, in the order of its blocks.
enum class Role {
  kEmbedding,
  kPositions,
  kEmbeddingIn,  // from the embedding's width to d_model
  kEmbeddingNorm,
  kAttentionIn,
  kQuery,
  kKey,
  kValue,
  kQueryNorm,
  kKeyNorm,
  kOutput,
  kAttentionOut,
  kMlpIn,
  kGate,
  kUp,
  kDown,
  kMlpOut,
  kFinalNorm,
  kEmbeddingOut,  // from d_model to the embedding's width
  kHead
};

/// Which parameter: a role, its weight or its bias, and the layer for roles within one.
struct ParameterId {
  Role role;
  std::optional<int64_t> layer = std::nullopt;
  bool is_bias = false;

  /// "embedding.weight", "layers.0.attention.q_proj.weight", "head.bias", ...: unique in the model.
  std::string name() const;
  /// The part before ".weight" for any layer: "embedding", "layers.{}.attention.q_proj", ...
  std::string module_pattern() const;
  bool operator==(const ParameterId&) const = default;
};

struct DecoderParameter {
  ParameterId id;
  ParameterSpec spec;
};

/// Parameters that one product reads, stacked along the first axis. Its role is that of its first
/// parameter: query for q, k and v, gate for gate and up.
struct DecoderOperand {
  Role role;
  bool is_bias;
  int64_t n_parameters;
};

/// The parameters that are held, gathered and exchanged together.
struct DecoderBlock {
  std::vector<DecoderParameter> parameters;
  std::vector<DecoderOperand> operands;

  /// The tensor of an operand among gathered ones; undefined where the block has none.
  torch::Tensor find(const std::vector<torch::Tensor>& gathered, Role role,
                     bool is_bias = false) const;
  /// The weight and bias of a linear map among gathered operands.
  LinearWeights linear(const std::vector<torch::Tensor>& gathered, Role role) const;
  /// The norm of a role over gathered operands.
  Norm norm(const std::vector<torch::Tensor>& gathered, Role role, const NormConfig& config) const;

  /// The index of the parameter of this role and kind, if there is one.
  std::optional<size_t> index(Role role, bool is_bias = false) const;
  int64_t numel() const;
  /// The block's uninitialised values; its i-th parameter and gathered operand are those of these
  /// lists.
  FlatParameters make(torch::TensorOptions options,
                      std::shared_ptr<Sharing> sharing = nullptr) const;
};

/// The blocks in order: embedding, one a layer, final norm (and head unless tied).
std::vector<DecoderBlock> decoder_blocks(const DecoderConfig& config);
/// The block of one layer.
DecoderBlock layer_block(const DecoderConfig& config, int64_t layer);
/// The part of layer_block() that attention's projections are: query to output.
DecoderBlock attention_block(const DecoderConfig& config, int64_t layer);

int64_t n_parameters(const DecoderConfig& config);

}  // namespace regroup
