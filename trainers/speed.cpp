#include "trainers/speed.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "framework/parameters/adamw.h"
#include "framework/progress/progress.h"
#include "framework/tensors/random.h"
#include "models/flops.h"
#include "models/generate.h"
#include "trainers/machine.h"

namespace regroup {
namespace {

constexpr int64_t kWarmUpSteps = 2;
constexpr int64_t kFewestSteps = 3;
constexpr double kLearningRate = 1e-4;

void train_step(Decoder& model, AdamW& optimizer, const torch::Tensor& tokens, World& world) {
  const auto n_tokens = static_cast<double>(world.size() * tokens.size(0) * (tokens.size(1) - 1));
  model.zero_gradients();
  model.begin_pass(/*is_last=*/true);
  const auto loss = model.loss(tokens, 1.0 / n_tokens);
  loss.backward();
  loss.item<double>();  // waits for the device
  model.finish_exchanges();
  const double norm = std::sqrt(world.sum({gradient_square(model.blocks())})[0]);
  optimizer.step(kLearningRate, 1.0 / std::max(1.0, norm));  // clipped at 1, as runs are
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

DecodeSpeed measure_decode(Decoder& model, int64_t batch, int64_t prompt, int64_t n_new,
                           double seconds) {
  auto random = seeded_generator(0, "prompts of a decoding benchmark");
  const auto prompts =
      torch::randint(model.config().vocab_size, {batch, prompt}, random, torch::kInt64)
          .to(model.options().device());
  const double tokens =
      static_cast<double>(batch * (n_new - 1));  // the first comes from the prefill
  std::vector<double> prefill, decode;
  const double begin = steady_seconds();
  while (decode.empty() || steady_seconds() - begin < seconds) {
    const double start = steady_seconds();
    double first_token_at = 0;
    generate(model, prompts, n_new, {}, [&](const torch::Tensor& next) {
      next.sum().item<int64_t>();  // waits for the device
      if (first_token_at == 0) first_token_at = steady_seconds();
      return true;
    });
    prefill.push_back(static_cast<double>(batch * prompt) / (first_token_at - start));
    decode.push_back(tokens / (steady_seconds() - first_token_at));
  }
  return {median(prefill), median(decode)};
}

TrainingSpeed measure_training(Decoder& model, int64_t batch, int64_t seq_len, double seconds,
                               World& world) {
  auto random = seeded_generator(0, "tokens of a training benchmark");
  const auto tokens =
      torch::randint(model.config().vocab_size, {batch, seq_len + 1}, random, torch::kInt64)
          .to(model.options().device());
  AdamW optimizer(model.blocks(), {});
  for (int64_t i = 0; i < kWarmUpSteps; ++i) train_step(model, optimizer, tokens, world);

  std::vector<double> times;
  const int64_t sent_before = world.sent_bytes();
  const double started_at = steady_seconds();
  const auto all_go_on = [&] {  // processes take as many steps
    const bool is_over = steady_seconds() - started_at >= seconds;
    return static_cast<int64_t>(times.size()) < kFewestSteps || world.sum({is_over * 1.0})[0] == 0;
  };
  while (all_go_on()) {
    const double step_began_at = steady_seconds();
    train_step(model, optimizer, tokens, world);
    times.push_back(steady_seconds() - step_began_at);
  }
  model.finish_exchanges();  // the last step's weights
  const double step_s = median(times);
  const double tokens_per_s = static_cast<double>(world.size() * batch * seq_len) / step_s;
  const double flops_per_s = tokens_per_s * training_flops_per_token(model.config(), seq_len);
  const double peak = world.size() * peak_flops(model.options());
  const auto n_steps = static_cast<int64_t>(times.size());
  return {n_steps, step_s, tokens_per_s, flops_per_s / peak,
          (world.sent_bytes() - sent_before) / n_steps};
}

}  // namespace regroup
