#include "models/convert/calibration.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/errors/error.h"
#include "framework/files/scratch_tensor.h"
#include "framework/functions/embedding.h"
#include "framework/functions/linear.h"
#include "models/finite.h"
#include "models/layers/blocked_attention.h"

namespace regroup {
namespace {

using torch::Tensor;

double square_sum(const Tensor& x) { return x.square().sum(torch::kFloat64).item<double>(); }

/// Causal attention scores before the softmax of one sequence: [n_head, T, T].
Tensor causal_scores(const DecoderLayer& layer, const Tensor& x, const RopeAngles& angles) {
  const auto& [n_head, n_kv_head, head_dim] = layer.shape();
  const auto heads = layer.qkv(x, 1).unflatten(2, {-1, head_dim});
  rotate_(heads.narrow(2, 0, n_head + n_kv_head), angles, 1);
  const auto by_head = heads.squeeze(0).transpose(0, 1);  // [heads, T, head_dim]
  const auto keys = by_head.narrow(0, n_head, n_kv_head).repeat_interleave(n_head / n_kv_head, 0);
  return by_head.narrow(0, 0, n_head).matmul(keys.mT()).tril();
}

/// sum over heads of (W P)ᵀ W P, with P a head's attention over one sequence x and W the diagonal
/// of token_weight, [T, 1]: [T, T].
Tensor attention_products(const DecoderLayer& layer, const Tensor& x, const RopeAngles& angles,
                          const Tensor& token_weight) {
  const auto heads = grouped_heads(layer.qkv(x, 1), layer.shape(), angles);
  const auto sum = torch::zeros({x.size(0), x.size(0)}, x.options());
  for (const auto& block : query_blocks(x.size(0))) {
    const auto weights = attention_weights(heads, block);
    const auto rows = (weights * token_weight.narrow(0, block.first, block.count)).flatten(0, 3);
    sum.narrow(0, 0, block.seen()).narrow(1, 0, block.seen()).addmm_(rows.t(), rows);
  }
  return sum;
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
      angles_(Rope(config_, torch::kFloat32).angles(0, text.positions())),
      stream_(embedded()) {
  begin_layer(0);
}

Tensor CalibrationPass::new_stream() const {
  return scratch_tensor({text_.n_tokens(), config_.d_model}, scratch_);
}

Tensor CalibrationPass::embedded() const {
  const torch::NoGradGuard no_grad;
  const auto table = finite_parameter(source_, "embedding.weight");
  const auto tokens = text_.tokens.narrow(1, 0, text_.positions()).flatten();
  auto stream = new_stream();
  for (const auto& chunk : chunks(text_))
    rows_of(stream, text_, chunk).copy_(regroup::embedding(table, rows_of(tokens, text_, chunk)));
  return stream;
}

void CalibrationPass::begin_layer(int64_t layer) {
  layer_ = layer;
  block_.reset();
  if (layer < config_.n_layer) block_ = block_with(nullptr, config_);
}

DecoderConfig CalibrationPass::config_with(const LayerProjections& pooled) const {
  auto config = config_;
  config.n_kv_head[static_cast<size_t>(layer_)] = pooled.shape.n_kv_head;
  return config;
}

FlatParameters CalibrationPass::block_with(const LayerProjections* pooled,
                                           const DecoderConfig& config) const {
  const auto spec = decoder_blocks(config)[static_cast<size_t>(layer_) + 1];
  FlatParameters block(spec.parameters, spec.operands, torch::kFloat32);
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    const auto& name = block.parameters()[i].name;
    const auto projection = pooled ? find_projection(name) : nullptr;
    block.parameter(i).copy_(projection ? pooled->*projection : finite_parameter(source_, name));
  }
  return block;
}

DecoderLayer CalibrationPass::original_layer() const {
  return DecoderLayer(config_, layer_, block_.value().gather());
}

InputMoments CalibrationPass::input_moments() const {
  const torch::NoGradGuard no_grad;
  const auto layer = original_layer();
  const std::vector<int64_t> shape{config_.d_model, config_.d_model};
  auto seen = torch::zeros(shape, torch::kFloat64), attended = torch::zeros_like(seen);
  for (int64_t window = 0; window < text_.n_windows() - text_.n_held_out; ++window) {
    const auto stream = rows_of(stream_, text_, {window, 1, false});
    const auto x = layer.normed(stream);
    seen += x.t().matmul(x);
    // sum over heads of (W P x)ᵀ W P x, without computing any P x.
    const auto products = attention_products(layer, stream, angles_, token_scale(stream));
    attended += x.t().matmul(products.matmul(x));
  }
  world_.all_reduce(seen);
  world_.all_reduce(attended);
  const auto normalised = [&](const Tensor& sum) { return sum / sum.diagonal().mean(); };
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
  const DecoderLayer converted(config, layer_, block.gather());
  const auto order =
      query_order(partition, config_.n_head / config_.n_kv_head[static_cast<size_t>(layer_)]);
  double score_error = 0, scores = 0, output_error = 0, outputs = 0, stream_error = 0;
  for (int64_t window = text_.n_windows() - text_.n_held_out; window < text_.n_windows();
       ++window) {
    const auto x = rows_of(stream_, text_, {window, 1, true});
    const auto s = causal_scores(layer, x, angles_).index_select(0, order);
    score_error += square_sum(causal_scores(converted, x, angles_) - s);
    scores += square_sum(s);
    const auto y = layer.after_attention(x, 1, angles_);
    const auto difference = converted.after_attention(x, 1, angles_) - y;
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
    const auto y = layer.after_attention(x, chunk.n_windows, angles_);
    if (targets_.defined()) rows_of(targets_, text_, chunk).copy_(y);
    x.copy_(layer.after_mlp(y));
    require_finite(x, "the original", layer_);
  }
  begin_layer(layer_ + 1);
}

RefitOutcome CalibrationPass::advance_beside(LayerProjections& pooled, RefitKind refit) {
  const torch::NoGradGuard no_grad;
  if (!converted_.defined()) {
    converted_ = new_stream().copy_(stream_);
    targets_ = new_stream();
  }
  const auto config = config_with(pooled);
  const int64_t index = layer_;
  auto block = block_with(&pooled, config);
  advance();
  const auto outcome =
      refit_attention(block, {config, index, text_, converted_, targets_, angles_, world_}, refit);
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    // Rounded as in the file, so that later layers also correct the rounding.
    const auto projection = find_projection(block.parameters()[i].name);
    if (!projection) continue;
    auto& values = pooled.*projection;
    values = block.parameter(i).to(values.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    world_.broadcast(values, /*from=*/0);  // other machines may differ in the last bits
    block.parameter(i).copy_(values);
  }
  const DecoderLayer layer(config, index, block.gather());
  for (const auto& chunk : chunks(text_)) {
    auto x = rows_of(converted_, text_, chunk);
    const auto y = layer.after_attention(x, chunk.n_windows, angles_);
    x.copy_(layer.after_mlp(y));
    require_finite(x, "the converted model", index);
  }
  return outcome;
}

Likeness CalibrationPass::likeness() const {
  const torch::NoGradGuard no_grad;
  const auto norm = finite_parameter(source_, "final_norm.weight").to(torch::kFloat32);
  const auto head =
      finite_parameter(source_, config_.tie_embeddings ? "embedding.weight" : "head.weight")
          .to(torch::kFloat32);
  const auto targets = text_.tokens.narrow(1, 1, text_.positions()).flatten();
  LikenessMeter meter;
  for (const auto& chunk : chunks(text_)) {
    if (!chunk.held_out) continue;
    const auto predictions = [&](const Tensor& stream) {
      return Predictions{regroup::rms_norm(rows_of(stream, text_, chunk), norm, config_.norm_eps),
                         head};
    };
    meter.add(predictions(converted_), predictions(stream_), rows_of(targets, text_, chunk));
  }
  meter.set_sums(world_.sum(meter.sums()));
  return meter.mean();
}

}  // namespace regroup
