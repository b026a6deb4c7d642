#include "models/convert/projection_training.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/functions/linear.h"
#include "framework/kernels/matmul.h"
#include "framework/parameters/adamw.h"
#include "framework/parameters/lr_schedule.h"
#include "models/convert/pool_layer.h"
#include "models/layers/blocked_attention.h"
#include "models/layers/decoder_layer.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr double kRelativeLr = 0.02;  // of the weights' root mean square
constexpr double kWarmupShare = 0.08;

/// The attention projections alone, which are adjacent in a layer's block.
struct Projections {
  DecoderBlock block;
  FlatParameters copy;
  Tensor original;  // the layer's values, [numel], a view
};

Projections projections_of(const FlatParameters& layer, const AttentionTask& task,
                           torch::ScalarType dtype) {
  const auto block = attention_block(task.config, task.layer);
  auto copy = block.make(dtype);
  const auto first = layer_block(task.config, task.layer).index(Role::kQuery).value();
  const auto original = layer.flat().narrow(0, layer.offset(first), copy.numel());
  copy.flat().copy_(original);
  copy.enable_gradient();
  return {block, copy, original};
}

/// The residual stream before the layer and its target, [2, T, d]. window: an index over all
/// processes; process r of n holds the windows r, r + n, ...
Tensor window_of_all(const AttentionTask& task, int64_t window) {
  const int size = task.world.size(), owner = static_cast<int>(window % size);
  const TextChunk chunk{window / size, 1, /*held_out=*/false};
  const auto rows = torch::empty({2, task.text.positions(), task.config.d_model}, torch::kFloat32);
  if (owner == task.world.rank()) {
    rows[0].copy_(rows_of(task.stream, task.text, chunk));
    rows[1].copy_(rows_of(task.targets, task.text, chunk));
  }
  task.world.broadcast(rows, owner);
  return rows;
}

/// This process's share of a window's query blocks.
std::vector<QueryBlock> share_of_queries(const AttentionTask& task) {
  std::vector<QueryBlock> share;
  const auto blocks = query_blocks(task.text.positions());
  for (auto i = static_cast<size_t>(task.world.rank()); i < blocks.size();
       i += static_cast<size_t>(task.world.size()))
    share.push_back(blocks[i]);
  return share;
}

Tensor rows_of_blocks(const Tensor& rows, const std::vector<QueryBlock>& blocks) {
  std::vector<Tensor> parts;
  for (const auto& block : blocks) parts.push_back(rows.narrow(0, block.first, block.count));
  return torch::cat(parts);
}

/// The layer's weights with those that are trained in their place.
std::vector<Tensor> weights_with(const Projections& projections, const DecoderBlock& block,
                                 std::vector<Tensor> weights) {
  const auto trained = projections.copy.gather();
  for (size_t i = 0; i < block.operands.size(); ++i) {
    const auto& [role, is_bias, n_parameters] = block.operands[i];
    const auto replaced = projections.block.find(trained, role, is_bias);
    if (replaced.defined()) weights[i] = replaced;
  }
  return weights;
}

/// Adds half the gradient of ||error||² / ||target||² at these queries to the block's gradient. x,
/// targets: [T, d].
void add_gradient(const Projections& projections, const AttentionTask& task,
                  const FlatParameters& layer_values, const Tensor& x, const Tensor& targets,
                  const std::vector<QueryBlock>& queries) {
  const auto& config = task.config.layer(task.layer);
  const auto block = layer_block(task.config, task.layer);
  const auto frozen = layer_values.gather();
  const DecoderLayer layer(config, block, frozen);
  const auto input = layer.attention_input(x).to(projections.copy.dtype());
  const torch::AutoGradMode with_gradients(true);
  const DecoderLayer trained(config, block, weights_with(projections, block, frozen));
  const auto heads = rotated_heads(trained.qkv_of_input(input, 1), config.attention, task.angles);
  const auto attended = blocked_attention(heads, config.attention.scores, queries).squeeze(0);
  const auto written = trained.written(attended).to(torch::kFloat32);
  const auto stream = layer.joined(written, rows_of_blocks(x, queries));
  const auto target = rows_of_blocks(targets, queries);
  stream.backward((stream.detach() - target) * token_scale(target).square());
}

LrSchedule schedule_of(int64_t steps, double lr) {
  LrSchedule schedule;
  schedule.lr = lr;
  schedule.min_lr = 0;
  schedule.steps = steps;
  schedule.warmup_steps = static_cast<int64_t>(kWarmupShare * static_cast<double>(steps));
  return schedule;
}

}  // namespace

void train_projections(FlatParameters& block, const AttentionTask& task) {
  const auto dtype = cpu_multiplies_bfloat16() ? torch::kBFloat16 : torch::kFloat32;
  const auto projections = projections_of(block, task, dtype);
  std::vector<FlatParameters> trained{projections.copy};
  AdamW optimizer(trained, {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-10, .weight_decay = 0});
  const auto master = optimizer.state().front().master.copy_(projections.original);

  const auto queries = share_of_queries(task);
  const int64_t n_mine = task.text.n_windows() - task.text.n_held_out;
  const auto n_fit = static_cast<int64_t>(task.world.sum({static_cast<double>(n_mine)})[0]);
  const double size = master.square().mean().sqrt().item<double>();
  const auto schedule = schedule_of(kTrainingPasses * n_fit, kRelativeLr * size);
  for (int64_t step = 0; step < schedule.steps; ++step) {
    const auto window = window_of_all(task, step % n_fit);
    trained.front().zero_gradient();
    if (!queries.empty()) add_gradient(projections, task, block, window[0], window[1], queries);
    task.world.all_reduce(trained.front().gradient());
    optimizer.step(schedule.at(step + 1), 1.0);
  }
  projections.original.copy_(master);
}

}  // namespace regroup
