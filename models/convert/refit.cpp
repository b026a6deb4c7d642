#include "models/convert/refit.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "models/convert/projection_training.h"
#include "models/layers/decoder_layer.h"

namespace regroup {
namespace {

using torch::Tensor;

Tensor after_attention(const FlatParameters& block, const AttentionTask& task,
                       const TextChunk& chunk) {
  const auto layer = decoder_layer(task.config, task.layer, block);
  const auto x = rows_of(task.stream, task.text, chunk);
  return layer.after_attention(x, chunk.n_windows, task.angles);
}

/// Sum over the chunk's tokens of ||error||² / ||target||².
Tensor relative_error(const FlatParameters& block, const AttentionTask& task,
                      const TextChunk& chunk) {
  const auto targets = rows_of(task.targets, task.text, chunk);
  const auto error = after_attention(block, task, chunk) - targets;
  return (error * token_scale(targets)).square().sum();
}

double held_out_error(const FlatParameters& block, const AttentionTask& task) {
  const torch::NoGradGuard no_grad;
  double sum = 0;
  for (const auto& chunk : chunks(task.text)) {
    if (chunk.held_out) sum += relative_error(block, task, chunk).item<double>();
  }
  const auto n_tokens = static_cast<double>(task.text.n_held_out * task.text.positions());
  const auto sums = task.world.sum({sum, n_tokens});
  return sums[0] / sums[1];
}

/// Trains the projections; restores them unless the held-out error falls below `before`.
void train_if_better(FlatParameters& block, const AttentionTask& task, double before) {
  const auto pooled = block.flat().clone();
  train_projections(block, task);
  if (!(held_out_error(block, task) < before)) block.flat().copy_(pooled);
}

/// Re-fits the output projection by ridge regression.
RefitOutcome solve_output(FlatParameters& block, const AttentionTask& task) {
  const auto& attention = task.config.layer(task.layer).attention;
  const int64_t m = attention.n_head * attention.head_dim, d = task.config.d_model;
  RegressionSums fit(m, d), held_out(m, d);
  const auto layer = decoder_layer(task.config, task.layer, block);
  for (const auto& chunk : chunks(task.text)) {
    const auto x = rows_of(task.stream, task.text, chunk);
    const auto heads = layer.attended(x, chunk.n_windows, task.angles);
    // A norm after the projection leaves it linear only before the norm.
    const bool is_normed = task.written.defined();
    const auto targets = rows_of(is_normed ? task.written : task.targets, task.text, chunk);
    const auto scale = token_scale(targets);
    const auto residual =
        targets - (is_normed ? layer.written(heads) : layer.after_attention(heads, x));
    (chunk.held_out ? held_out : fit).add(heads * scale, residual * scale);
  }
  fit.all_reduce(task.world);
  held_out.all_reduce(task.world);
  const auto refit = refit_output(fit, held_out);
  const auto spec = layer_block(task.config, task.layer);
  block.parameter(spec.index(Role::kOutput).value()).add_(refit.change);
  return {held_out.mean_error(torch::zeros_like(refit.change)), held_out.mean_error(refit.change),
          refit.strength};
}

}  // namespace

const EnumNames<RefitKind>& refit_kinds() {
  static const EnumNames<RefitKind> kinds{
      {"none", RefitKind::kNone}, {"output", RefitKind::kOutput}, {"block", RefitKind::kBlock}};
  return kinds;
}

RefitOutcome refit_attention(FlatParameters& block, const AttentionTask& task, RefitKind kind) {
  const torch::NoGradGuard no_grad;
  if (kind == RefitKind::kOutput) return solve_output(block, task);
  const double before = held_out_error(block, task);
  if (kind == RefitKind::kNone) return {before, before};
  train_if_better(block, task, before);
  const auto outcome = solve_output(block, task);
  return {before, outcome.error_after, outcome.strength};
}

RegressionSums::RegressionSums(int64_t m, int64_t d)
    : heads_moment(torch::zeros({m, m}, torch::kFloat64)),
      product(torch::zeros({m, d}, torch::kFloat64)) {}

void RegressionSums::add(const Tensor& heads, const Tensor& residual) {
  heads_moment += heads.t().matmul(heads);
  product += heads.t().matmul(residual);
  residual_square += residual.square().sum(torch::kFloat64).item<double>();
  n_tokens += heads.size(0);
}

void RegressionSums::all_reduce(World& world) {
  world.all_reduce(heads_moment);
  world.all_reduce(product);
  const auto sums = world.sum({residual_square, static_cast<double>(n_tokens)});
  residual_square = sums[0];
  n_tokens = static_cast<int64_t>(sums[1]);
}

double RegressionSums::mean_error(const Tensor& change) const {
  const double sum = residual_square - 2 * (change.t() * product).sum().item<double>() +
                     (change.matmul(heads_moment) * change).sum().item<double>();
  return sum / static_cast<double>(n_tokens);
}

OutputRefit refit_output(const RegressionSums& fit, const RegressionSums& held_out) {
  constexpr double kStrengths[] = {3, 1, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4};
  constexpr double kEnough = 0.9;  // of the best strength's improvement
  const auto mean_square = fit.heads_moment.diagonal().mean();
  const auto identity = torch::eye(fit.heads_moment.size(0), fit.heads_moment.options());
  std::vector<OutputRefit> refits;  // strongest first
  std::vector<double> gains;
  const double before = held_out.mean_error(torch::zeros_like(fit.product).t());
  for (const double strength : kStrengths) {
    const auto regularised = fit.heads_moment + strength * mean_square * identity;
    const auto [root, failed] = torch::linalg_cholesky_ex(regularised);
    if (failed.item<int>() != 0)
      continue;  // singular: the text spans too few directions for this strength
    refits.push_back({torch::cholesky_solve(fit.product, root).t(), strength});
    gains.push_back(before - held_out.mean_error(refits.back().change));
  }
  const double best = gains.empty() ? 0 : *std::max_element(gains.begin(), gains.end());
  for (size_t i = 0; i < refits.size(); ++i) {
    if (best > 0 && gains[i] >= kEnough * best) return refits[i];
  }
  return {torch::zeros_like(fit.product).t(), 0};
}

}  // namespace regroup
