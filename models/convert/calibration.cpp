#include "models/convert/calibration.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/errors/error.h"
#include "framework/files/scratch_tensor.h"
#include "models/finite.h"
#include "models/layers/blocked_attention.h"
#include "models/layers/ends.h"

namespace regroup {
namespace {

using torch::Tensor;

double square_sum(const Tensor& x) { return x.square().sum(torch::kFloat64).item<double>(); }

/// Attention scores before the softmax of one sequence, 0 where a query does not look: [n_head, T,
/// T].
Tensor causal_scores(const DecoderLayer& layer, const Tensor& x, const RopeAngles& angles) {
  const auto& config = layer.attention_config();
  const int64_t n_head = config.n_head, n_kv_head = config.n_kv_head;
  const auto heads = layer.qkv(x, 1).unflatten(2, {-1, config.head_dim});
  if (angles.cos.defined()) rotate_(heads.narrow(2, 0, n_head + n_kv_head), angles, 1);
  const auto by_head = heads.squeeze(0).transpose(0, 1);  // [heads, T, head_dim]
  const auto keys = by_head.narrow(0, n_head, n_kv_head).repeat_interleave(config.group_size(), 0);
  const auto products = by_head.narrow(0, 0, n_head).matmul(keys.mT()) * config.scores.scale;
  const auto scores = config.scores.scores(products, 0);
  return scores.masked_fill(scores.isinf(), 0);
}

/// sum over heads of (W P)ᵀ W P, with P a head's attention over one sequence x and W the diagonal
/// of token_weight, [T, 1]: [T, T].
Tensor attention_products(const DecoderLayer& layer, const Tensor& x, const RopeAngles& angles,
                          const Tensor& token_weight) {
  const auto& config = layer.attention_config();
  const auto heads = rotated_heads(layer.qkv(x, 1), config, angles);
  const auto sum = torch::zeros({x.size(0), x.size(0)}, x.options());
  for (const auto& block : query_blocks(x.size(0))) {
    const auto weights = attention_weights(heads, config.scores, block);
    const auto rows = (weights * token_weight.narrow(0, block.first, block.count)).flatten(0, 3);
    sum.narrow(0, 0, block.seen()).narrow(1, 0, block.seen()).addmm_(rows.t(), rows);
  }
  return sum;
}

/// The input of projections whose biases are one more column: x with a 1 appended.
Tensor with_bias_input(const Tensor& x, const AttentionConfig& attention) {
  return attention.qkv_bias ? torch::cat({x, torch::ones({x.size(0), 1}, x.options())}, 1) : x;
}

/// The original's query heads, in the order that the partition gives them.
Tensor query_order(const Partition& partition, int64_t queries_per_head) {
  std::vector<int64_t> order;
  for (const auto& group : partition) {
    for (const int64_t head : group) {
      for (int64_t i = 0; i < queries_per_head; ++i) order.push_back(head * queries_per_head + i);
    }
  }
  return torch::tensor(order, torch::kInt64);
}

}  // namespace

CalibrationPass::CalibrationPass(const ModelFolder& source, const CalibrationText& text,
                                 const std::filesystem::path& scratch, World& world)
    : source_(source),
      text_(text),
      scratch_(scratch),
      world_(world),
      config_(source.config()),
      angles_(LayerRopes(config_, torch::kFloat32).angles(0, text.positions())),
      stream_(embedded()) {
  begin_layer(0);
}

Tensor CalibrationPass::new_stream() const {
  return scratch_tensor({text_.n_tokens(), config_.d_model}, scratch_);
}

FlatParameters CalibrationPass::block_of(const DecoderBlock& spec) const {
  const auto block = spec.make(torch::kFloat32);
  for (size_t i = 0; i < spec.parameters.size(); ++i)
    block.parameter(i).copy_(finite_parameter(source_, spec.parameters[i].id));
  return block;
}

Tensor CalibrationPass::embedded() const {
  const torch::NoGradGuard no_grad;
  const auto spec = decoder_blocks(config_).front();
  const auto weights = block_of(spec).gather();
  const auto tokens = text_.tokens.narrow(1, 0, text_.positions());
  auto stream = new_stream();
  for (const auto& chunk : chunks(text_)) {
    const auto windows = tokens.narrow(0, chunk.first, chunk.n_windows);
    rows_of(stream, text_, chunk).copy_(embedding_of(config_, spec, weights, windows, 0));
  }
  return stream;
}

void CalibrationPass::begin_layer(int64_t layer) {
  layer_ = layer;
  block_.reset();
  if (layer < config_.n_layer()) block_ = block_with(nullptr, config_);
}

DecoderConfig CalibrationPass::config_with(const LayerProjections& pooled) const {
  auto config = config_;
  config.layer(layer_).attention.n_kv_head = pooled.shape.n_kv_head;
  return config;
}

FlatParameters CalibrationPass::block_with(const LayerProjections* pooled,
                                           const DecoderConfig& config) const {
  const auto spec = layer_block(config, layer_);
  const auto block = spec.make(torch::kFloat32);
  for (size_t i = 0; i < spec.parameters.size(); ++i) {
    const auto& id = spec.parameters[i].id;
    const bool is_pooled = pooled && is_projection(id, pooled->shape);
    block.parameter(i).copy_(is_pooled ? projection_values(*pooled, id)
                                       : finite_parameter(source_, id));
  }
  return block;
}

DecoderLayer CalibrationPass::original_layer() const {
  return decoder_layer(config_, layer_, block_.value());
}

InputMoments CalibrationPass::input_moments() const {
  const torch::NoGradGuard no_grad;
  const auto layer = original_layer();
  const int64_t width = config_.d_model + (config_.layer(layer_).attention.qkv_bias ? 1 : 0);
  const std::vector<int64_t> shape{width, width};
  auto seen = torch::zeros(shape, torch::kFloat64), attended = torch::zeros_like(seen);
  for (int64_t window = 0; window < text_.n_windows() - text_.n_held_out; ++window) {
    const auto stream = rows_of(stream_, text_, {window, 1, false});
    const auto x = with_bias_input(layer.attention_input(stream), config_.layer(layer_).attention);
    seen += x.t().matmul(x);
    // sum over heads of (W P x)ᵀ W P x, without computing any P x.
    const auto products = attention_products(layer, stream, angles(), token_scale(stream));
    attended += x.t().matmul(products.matmul(x));
  }
  world_.all_reduce(seen);
  world_.all_reduce(attended);
  // Symmetric to the last bit: eigenvectors of an operand's products with a moment that float32
  // sums left asymmetric do not span the operand where the moment is ill-conditioned.
  const auto normalised = [&](const Tensor& sum) {
    return (sum + sum.t()) / (2 * sum.diagonal().mean());
  };
  return {normalised(seen), normalised(attended)};
}

void CalibrationPass::require_finite(const Tensor& stream, const char* whose, int64_t layer) const {
  if (stream.sum().isfinite().item<bool>()) return;
  throw Error(source_.path().string(),
              c10::str("the activations of ", whose, " after layer ", layer,
                       " are not finite on the calibration text"),
              "The model's weights are damaged, or it overflows float32.");
}

LayerError CalibrationPass::layer_error(const LayerProjections& pooled,
                                        const Partition& partition) const {
  const torch::NoGradGuard no_grad;
  const auto config = config_with(pooled);
  const auto block = block_with(&pooled, config);
  const auto layer = original_layer();
  const auto converted = decoder_layer(config, layer_, block);
  const auto order = query_order(partition, config_.layer(layer_).attention.group_size());
  double score_error = 0, scores = 0, output_error = 0, outputs = 0, stream_error = 0;
  for (int64_t window = text_.n_windows() - text_.n_held_out; window < text_.n_windows();
       ++window) {
    const auto x = rows_of(stream_, text_, {window, 1, true});
    const auto s = causal_scores(layer, x, angles()).index_select(0, order);
    score_error += square_sum(causal_scores(converted, x, angles()) - s);
    scores += square_sum(s);
    const auto y = layer.after_attention(x, 1, angles());
    const auto difference = converted.after_attention(x, 1, angles()) - y;
    output_error += square_sum(difference);
    outputs += square_sum(y - x);
    stream_error +=
        (difference.square().sum(1) / y.square().sum(1)).sum(torch::kFloat64).item<double>();
  }
  const auto n_tokens = static_cast<double>(text_.n_held_out * text_.positions());
  const auto sums =
      world_.sum({score_error, scores, output_error, outputs, stream_error, n_tokens});
  const auto share = [&](size_t part, size_t whole) {
    return sums[part] > 0 ? std::sqrt(sums[part] / sums[whole]) : 0;
  };
  return {share(0, 1), share(2, 3), sums[4] / sums[5]};
}

void CalibrationPass::advance() {
  const torch::NoGradGuard no_grad;
  const auto layer = original_layer();
  for (const auto& chunk : chunks(text_)) {
    auto x = rows_of(stream_, text_, chunk);
    const auto heads = layer.attended(x, chunk.n_windows, angles());
    const auto y = layer.after_attention(heads, x);
    if (targets_.defined()) rows_of(targets_, text_, chunk).copy_(y);
    if (written_.defined()) rows_of(written_, text_, chunk).copy_(layer.written(heads));
    x.copy_(layer.after_mlp(y, x));
    require_finite(x, "the original", layer_);
  }
  begin_layer(layer_ + 1);
}

RefitOutcome CalibrationPass::advance_beside(LayerProjections& pooled, RefitKind refit) {
  const torch::NoGradGuard no_grad;
  if (!converted_.defined()) {
    converted_ = new_stream().copy_(stream_);
    targets_ = new_stream();
    if (config_.layer(layer_).attention_out) written_ = new_stream();
  }
  const auto config = config_with(pooled);
  const int64_t index = layer_;
  const auto turns = angles();
  const auto parameters = layer_block(config, index).parameters;
  auto block = block_with(&pooled, config);
  advance();
  const auto outcome = refit_attention(
      block, {config, index, text_, converted_, targets_, written_, turns, world_}, refit);
  for (size_t i = 0; i < parameters.size(); ++i) {
    // Rounded as in the file, so that later layers also correct the rounding.
    const auto& id = parameters[i].id;
    if (!is_projection(id, pooled.shape)) continue;
    set_projection_values(pooled, id, block.parameter(i));
    const auto values = projection_values(pooled, id).contiguous();
    world_.broadcast(values, /*from=*/0);  // other machines may differ in the last bits
    set_projection_values(pooled, id, values);
    block.parameter(i).copy_(values);
  }
  const auto layer = decoder_layer(config, index, block);
  for (const auto& chunk : chunks(text_)) {
    auto x = rows_of(converted_, text_, chunk);
    const auto y = layer.after_attention(x, chunk.n_windows, turns);
    x.copy_(layer.after_mlp(y, x));
    require_finite(x, "the converted model", index);
  }
  return outcome;
}

Likeness CalibrationPass::likeness() const {
  const torch::NoGradGuard no_grad;
  const auto blocks = decoder_blocks(config_);
  const auto last = block_of(blocks.back()).gather();
  const auto first = config_.head.tied ? block_of(blocks.front()).gather() : std::vector<Tensor>();
  const auto targets = text_.tokens.narrow(1, 1, text_.positions()).flatten();
  LikenessMeter meter;
  for (const auto& chunk : chunks(text_)) {
    if (!chunk.held_out) continue;
    const auto predictions = [&](const Tensor& stream) {
      return output_of(config_, blocks, rows_of(stream, text_, chunk), last, first);
    };
    meter.add(predictions(converted_), predictions(stream_), rows_of(targets, text_, chunk));
  }
  meter.set_sums(world_.sum(meter.sums()));
  return meter.mean();
}

}  // namespace regroup
