#include "trainers/speed.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "framework/parameters/adamw.h"
#include "framework/process/processors.h"
#include "framework/progress/progress.h"
#include "framework/tensors/random.h"
#include "framework/text/human.h"
#include "models/flops.h"
#include "models/generate.h"
#include "trainers/machine.h"
#include "trainers/training_step.h"

namespace regroup {
namespace {

constexpr int64_t kWarmUpSteps = 2;
constexpr int64_t kFewestSteps = 3;
constexpr double kLearningRate = 1e-4, kGradClip = 1;
constexpr double kFirstPeakSeconds = 1, kNextPeakSeconds = 0.2;
constexpr double kPeakMeasurements = 4;  // between the steps

void train_step(Decoder& model, AdamW& optimizer, const torch::Tensor& tokens, World& world) {
  const auto n_tokens = static_cast<double>(world.size() * tokens.size(0) * (tokens.size(1) - 1));
  const auto loss_of = [&] { return model.loss(tokens, 1.0 / n_tokens); };
  const auto sums = sum_gradients(model, /*n_passes=*/1, loss_of, world);
  optimizer.step(kLearningRate, clip_factor(sums.gradient_norm, kGradClip));
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double spread(const std::vector<double>& values) {
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  return (*largest - *smallest) / median(values);
}

std::optional<std::string> busy_remark(double busy_elsewhere, int64_t n_processes) {
  const auto n_processors = allowed_processors().size();
  if (!are_too_few_left(busy_elsewhere, torch::get_num_threads() * n_processes, n_processors))
    return std::nullopt;
  return c10::str("the machine was busy: other processes computed on ", fixed(busy_elsewhere, 1),
                  " of ", n_processors, " processors, which lowers the measured speed");
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
  const OtherProcesses others;
  const double begin = steady_seconds();
  while (decode.empty() || steady_seconds() - begin < seconds) {
    const double start = steady_seconds();
    double first_token_at = 0;
    generate(model, prompts, n_new, {}, /*seeds=*/{}, [&](const torch::Tensor& next) {
      next.sum().item<int64_t>();  // waits for the device
      if (first_token_at == 0) first_token_at = steady_seconds();
      return true;
    });
    prefill.push_back(static_cast<double>(batch * prompt) / (first_token_at - start));
    decode.push_back(tokens / (steady_seconds() - first_token_at));
  }
  return {median(prefill), median(decode), others.busy_processors()};
}

TrainingSpeed measure_training(Decoder& model, int64_t batch, int64_t seq_len, double seconds,
                               World& world) {
  auto random = seeded_generator(0, "tokens of a training benchmark");
  const auto tokens =
      torch::randint(model.config().vocab_size, {batch, seq_len + 1}, random, torch::kInt64)
          .to(model.options().device());
  AdamW optimizer(model.blocks(), {});
  for (int64_t i = 0; i < kWarmUpSteps; ++i) train_step(model, optimizer, tokens, world);

  PeakFlops peak(model.options(), batch * seq_len, model.config().d_model,
                 model.config().layer(0).mlp.d_ff);
  peak.measure(kFirstPeakSeconds);
  std::vector<double> times;
  const int64_t sent_before = world.sent_bytes();
  const OtherProcesses others;
  const double started_at = steady_seconds();
  double n_peaks = 0;
  while (true) {
    const double share = (steady_seconds() - started_at) / seconds;
    // Processes take as many steps, and measure peaks at the same time.
    const auto votes =
        world.sum({share >= 1 ? 1.0 : 0.0, share * kPeakMeasurements >= n_peaks + 1 ? 1.0 : 0.0});
    if (votes[0] > 0 && static_cast<int64_t>(times.size()) >= kFewestSteps) break;
    if (votes[1] > 0) {
      peak.measure(kNextPeakSeconds);
      ++n_peaks;
    }
    const double step_began_at = steady_seconds();
    train_step(model, optimizer, tokens, world);
    times.push_back(steady_seconds() - step_began_at);
  }
  model.finish_exchanges();  // the last step's weights
  peak.measure(kNextPeakSeconds);

  TrainingSpeed speed{};
  speed.steps = static_cast<int64_t>(times.size());
  speed.step_s = median(times);
  speed.tokens_per_s = static_cast<double>(world.size() * batch * seq_len) / speed.step_s;
  const auto sums = world.sum({peak.value(), others.own_seconds()});
  speed.peak_flops = sums[0];
  speed.mfu = speed.tokens_per_s * training_flops_per_token(model.config(), seq_len) / sums[0];
  speed.sent_bytes = (world.sent_bytes() - sent_before) / speed.steps;
  const double node_seconds = sums[1] * world.local_size() / world.size();
  speed.busy_elsewhere = others.busy_processors(node_seconds - others.own_seconds());
  return speed;
}

}  // namespace regroup
