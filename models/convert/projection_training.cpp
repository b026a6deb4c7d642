#include "models/convert/projection_training.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/adamw.h"
#include "framework/functions/linear.h"
#include "framework/lr_schedule.h"
#include "framework/matmul.h"
#include "models/convert/pool_layer.h"
#include "models/decoder_layer.h"
#include "models/layers/blocked_attention.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr int64_t kPasses = 2;
constexpr double kRelativeLr = 0.02;  // of the weights' root mean square
constexpr double kWarmupShare = 0.08;

enum ProjectionOperand : size_t { kQkv, kOutput };

/// A block of the attention projections alone, which stand one after the other in a layer's block.
struct Projections {
  FlatParameters copy;
  Tensor original;  // the layer's values, [numel], a view
};

Projections projections_of(const FlatParameters& layer, torch::ScalarType dtype) {
  std::vector<ParameterSpec> specs;
  int64_t begin = 0;
  for (size_t i = 0; i < layer.parameters().size(); ++i) {
    if (!find_projection(layer.parameters()[i].name)) continue;
    if (specs.empty()) begin = layer.offset(i);
    specs.push_back(layer.parameters()[i]);
  }
  FlatParameters copy(specs, {{3}, {1}}, dtype);
  const auto original = layer.flat().narrow(0, begin, copy.numel());
  copy.flat().copy_(original);
  copy.enable_gradient();
  return {copy, original};
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
  const DecoderLayer layer(task.config, task.layer, block.gather());
  const auto projections = projections_of(block, dtype);
  std::vector<FlatParameters> trained{projections.copy};
  AdamW optimizer(trained, {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-10, .weight_decay = 0});
  const auto master = optimizer.state().front().master.copy_(projections.original);

  const int64_t n_fit = task.text.n_windows() - task.text.n_held_out;
  const double size = master.square().mean().sqrt().item<double>();
  const auto schedule = schedule_of(kPasses * n_fit, kRelativeLr * size);
  for (int64_t step = 0; step < schedule.steps; ++step) {
    const TextChunk window{step % n_fit, 1, /*held_out=*/false};
    const auto x = rows_of(task.stream, task.text, window);
    const auto targets = rows_of(task.targets, task.text, window);
    const auto normed = layer.normed(x).to(dtype);
    trained.front().zero_gradient();
    const torch::AutoGradMode with_gradients(true);
    const auto weights = trained.front().gather();
    const auto qkv = regroup::linear(normed, weights[kQkv]).unsqueeze(0);
    const auto heads = blocked_attention(qkv, layer.shape(), task.angles).squeeze(0);
    const auto written = regroup::linear(heads, weights[kOutput]);
    // Half the gradient of ||error||² / ||target||².
    const auto error = written.detach() + x - targets;
    written.backward((error * token_scale(targets).square()).to(dtype));
    optimizer.step(schedule.at(step + 1), 1.0);
  }
  projections.original.copy_(master);
}

}  // namespace regroup
