#include "trainers/bench.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "framework/adamw.h"
#include "framework/progress.h"
#include "framework/random.h"
#include "trainers/flops.h"

namespace regroup {
namespace {

constexpr int64_t kWarmUpSteps = 2;
constexpr int64_t kFewestSteps = 3;
constexpr double kLearningRate = 1e-4;

void train_step(Decoder& model, AdamW& optimizer, const torch::Tensor& tokens) {
  for (auto& block : model.blocks()) block.zero_gradient();
  const auto loss =
      model.loss(tokens, 1.0 / static_cast<double>(tokens.size(0) * (tokens.size(1) - 1)));
  loss.backward();
  loss.item<double>();  // waits for the device
  optimizer.step(kLearningRate, 1.0);
}

}  // namespace

TrainingSpeed measure_training(Decoder& model, int64_t batch, int64_t seq_len, double seconds) {
  auto random = seeded_generator(0, "tokens of a training benchmark");
  const auto tokens =
      torch::randint(model.config().vocab_size, {batch, seq_len + 1}, random, torch::kInt64)
          .to(model.options().device());
  AdamW optimizer(model.blocks(), {});
  for (int64_t i = 0; i < kWarmUpSteps; ++i) train_step(model, optimizer, tokens);

  std::vector<double> times;
  const double started_at = steady_seconds();
  while (static_cast<int64_t>(times.size()) < kFewestSteps ||
         steady_seconds() - started_at < seconds) {
    const double step_began_at = steady_seconds();
    train_step(model, optimizer, tokens);
    times.push_back(steady_seconds() - step_began_at);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2),
                   times.end());
  const double step_s = times[times.size() / 2];
  const double tokens_per_s = static_cast<double>(batch * seq_len) / step_s;
  const double flops_per_s = tokens_per_s * training_flops_per_token(model.config(), seq_len);
  return {static_cast<int64_t>(times.size()), step_s, tokens_per_s,
          flops_per_s / measured_peak_flops(model.options())};
}

}  // namespace regroup
