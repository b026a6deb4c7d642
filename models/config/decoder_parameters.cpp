#include "models/config/decoder_parameters.h"

#include <c10/util/StringUtil.h>
#include <c10/util/accumulate.h>

#include <cmath>

namespace regroup {
namespace {

constexpr double kInitStd = 0.02;

const char* module_of(Role role) {
  switch (role) {
    case Role::kEmbedding:
      return "embedding";
    case Role::kPositions:
      return "positions";
    case Role::kEmbeddingIn:
      return "embedding_in";
    case Role::kEmbeddingNorm:
      return "embedding_norm";
    case Role::kAttentionIn:
      return "attention_norm";
    case Role::kQuery:
      return "attention.q_proj";
    case Role::kKey:
      return "attention.k_proj";
    case Role::kValue:
      return "attention.v_proj";
    case Role::kQueryNorm:
      return "attention.q_norm";
    case Role::kKeyNorm:
      return "attention.k_norm";
    case Role::kOutput:
      return "attention.o_proj";
    case Role::kAttentionOut:
      return "attention_out_norm";
    case Role::kMlpIn:
      return "mlp_norm";
    case Role::kGate:
      return "mlp.gate_proj";
    case Role::kUp:
      return "mlp.up_proj";
    case Role::kDown:
      return "mlp.down_proj";
    case Role::kMlpOut:
      return "mlp_out_norm";
    case Role::kFinalNorm:
      return "final_norm";
    case Role::kEmbeddingOut:
      return "embedding_out";
    case Role::kHead:
      return "head";
  }
  TORCH_CHECK(false, "not a role");
}

/// Adds parameters to a block in order.
class BlockBuilder {
 public:
  explicit BlockBuilder(std::optional<int64_t> layer = std::nullopt) : layer_(layer) {}

  /// shape: of the gain and bias, [d] or [heads, d].
  void norm(Role role, const std::optional<NormConfig>& norm, const std::vector<int64_t>& shape) {
    if (!norm) return;
    // Gains begin as 1, whatever is added to them.
    if (norm->has_gain) add(role, false, shape, {1 - norm->gain_offset, 0, false});
    if (norm->has_bias) add(role, true, shape, {0, 0, false});
  }
  struct Matrix {
    Role role;
    int64_t rows;
  };
  /// Matrices that one product reads, each with `columns`, and their biases.
  void linear(const std::vector<Matrix>& matrices, int64_t columns, bool bias,
              double std = kInitStd) {
    for (const auto& [role, rows] : matrices) add(role, false, {rows, columns}, {0, std, true});
    stack(matrices.size());
    if (!bias) return;
    for (const auto& [role, rows] : matrices) this->bias(role, rows);
    stack(matrices.size());
  }

  void bias(Role role, int64_t size) { add(role, true, {size}, {0, 0, false}); }

  DecoderBlock block;

 private:
  struct Start {
    double value, std;
    bool weight_decay;
  };

  void add(Role role, bool is_bias, std::vector<int64_t> shape, const Start& start) {
    const ParameterId id{role, layer_, is_bias};
    block.parameters.push_back(
        {id, {id.name(), std::move(shape), start.std, start.weight_decay, start.value}});
    block.operands.push_back({role, is_bias, 1});
  }
  /// Makes one operand of the last n.
  void stack(size_t n) {
    block.operands.resize(block.operands.size() - n + 1);
    block.operands.back().n_parameters = static_cast<int64_t>(n);
  }

  std::optional<int64_t> layer_;
};

/// Projections into the residual stream start smaller, so that its variance does not grow with
/// depth (GPT-2).
double residual_std(const DecoderConfig& config) {
  return kInitStd / std::sqrt(2.0 * static_cast<double>(config.n_layer()));
}

void add_qk_norm(BlockBuilder& builder, const AttentionConfig& attention) {
  if (!attention.qk_norm) return;
  const auto& [over, norm] = *attention.qk_norm;
  const auto shape = [&, over = over](int64_t heads) -> std::vector<int64_t> {
    if (over == QkNormConfig::Over::kHead) return {attention.head_dim};
    if (over == QkNormConfig::Over::kHeads) return {heads, attention.head_dim};
    return {heads * attention.head_dim};
  };
  builder.norm(Role::kQueryNorm, norm, shape(attention.n_head));
  builder.norm(Role::kKeyNorm, norm, shape(attention.n_kv_head));
}

void add_attention(BlockBuilder& builder, const DecoderConfig& config,
                   const AttentionConfig& attention) {
  const int64_t q = attention.n_head * attention.head_dim,
                kv = attention.n_kv_head * attention.head_dim;
  builder.linear({{Role::kQuery, q}, {Role::kKey, kv}, {Role::kValue, kv}}, config.d_model,
                 attention.qkv_bias);
  add_qk_norm(builder, attention);
  builder.linear({{Role::kOutput, config.d_model}}, q, attention.output_bias, residual_std(config));
}

void add_mlp(BlockBuilder& builder, const DecoderConfig& config, const MlpConfig& mlp) {
  std::vector<BlockBuilder::Matrix> into;
  if (mlp.activation.gated) into.push_back({Role::kGate, mlp.d_ff});
  into.push_back({Role::kUp, mlp.d_ff});
  builder.linear(into, config.d_model, mlp.in_bias);
  builder.linear({{Role::kDown, config.d_model}}, mlp.d_ff, mlp.out_bias, residual_std(config));
}

DecoderBlock embedding_block(const DecoderConfig& config) {
  const auto& embedding = config.embedding;
  BlockBuilder builder;
  builder.linear({{Role::kEmbedding, config.vocab_size}}, config.embedding_width(), false);
  if (embedding.first_position) {
    builder.linear({{Role::kPositions, *embedding.first_position + config.max_seq_len}},
                   config.d_model, false);
  }
  if (embedding.width)
    builder.linear({{Role::kEmbeddingIn, config.d_model}}, *embedding.width, false);
  builder.norm(Role::kEmbeddingNorm, embedding.norm, {config.d_model});
  return builder.block;
}

DecoderBlock final_block(const DecoderConfig& config) {
  BlockBuilder builder;
  builder.norm(Role::kFinalNorm, config.final_norm, {config.d_model});
  if (config.embedding.width)
    builder.linear({{Role::kEmbeddingOut, *config.embedding.width}}, config.d_model, false);
  if (!config.head.tied) {
    builder.linear({{Role::kHead, config.vocab_size}}, config.embedding_width(), config.head.bias);
  } else if (config.head.bias) {
    builder.bias(Role::kHead, config.vocab_size);
  }
  return builder.block;
}

}  // namespace

std::string ParameterId::name() const {
  return c10::str(layer ? c10::str("layers.", *layer, ".") : "", module_of(role),
                  is_bias ? ".bias" : ".weight");
}

std::string ParameterId::module_pattern() const {
  const bool in_layer = role >= Role::kAttentionIn && role <= Role::kMlpOut;
  return c10::str(in_layer ? "layers.{}." : "", module_of(role));
}

torch::Tensor DecoderBlock::find(const std::vector<torch::Tensor>& gathered, Role role,
                                 bool is_bias) const {
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].role == role && operands[i].is_bias == is_bias) return gathered.at(i);
  }
  return {};
}

LinearWeights DecoderBlock::linear(const std::vector<torch::Tensor>& gathered, Role role) const {
  return {find(gathered, role), find(gathered, role, /*is_bias=*/true)};
}

Norm DecoderBlock::norm(const std::vector<torch::Tensor>& gathered, Role role,
                        const NormConfig& config) const {
  auto gain = find(gathered, role);
  if (config.gain_offset != 0) gain = gain + config.gain_offset;
  return {config.kind, config.eps, gain, find(gathered, role, /*is_bias=*/true)};
}

std::optional<size_t> DecoderBlock::index(Role role, bool is_bias) const {
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].id.role == role && parameters[i].id.is_bias == is_bias) return i;
  }
  return std::nullopt;
}

int64_t DecoderBlock::numel() const {
  int64_t numel = 0;
  for (const auto& parameter : parameters) numel += c10::multiply_integers(parameter.spec.shape);
  return numel;
}

FlatParameters DecoderBlock::make(torch::TensorOptions options,
                                  std::shared_ptr<Sharing> sharing) const {
  std::vector<ParameterSpec> parameter_specs;
  std::vector<OperandSpec> operand_specs;
  for (const auto& parameter : parameters) parameter_specs.push_back(parameter.spec);
  for (const auto& operand : operands) operand_specs.push_back({operand.n_parameters});
  return FlatParameters(parameter_specs, operand_specs, options, std::move(sharing));
}

DecoderBlock layer_block(const DecoderConfig& config, int64_t index) {
  const auto& layer = config.layer(index);
  BlockBuilder builder(index);
  builder.norm(Role::kAttentionIn, layer.attention_in, {config.d_model});
  add_attention(builder, config, layer.attention);
  builder.norm(Role::kAttentionOut, layer.attention_out, {config.d_model});
  builder.norm(Role::kMlpIn, layer.mlp_in, {config.d_model});
  add_mlp(builder, config, layer.mlp);
  builder.norm(Role::kMlpOut, layer.mlp_out, {config.d_model});
  return builder.block;
}

DecoderBlock attention_block(const DecoderConfig& config, int64_t index) {
  BlockBuilder builder(index);
  add_attention(builder, config, config.layer(index).attention);
  return builder.block;
}

std::vector<DecoderBlock> decoder_blocks(const DecoderConfig& config) {
  std::vector<DecoderBlock> blocks{embedding_block(config)};
  for (int64_t layer = 0; layer < config.n_layer(); ++layer)
    blocks.push_back(layer_block(config, layer));
  blocks.push_back(final_block(config));
  return blocks;
}

int64_t n_parameters(const DecoderConfig& config) {
  int64_t total = 0;
  for (const auto& block : decoder_blocks(config)) total += block.numel();
  return total;
}

}  // namespace regroup
