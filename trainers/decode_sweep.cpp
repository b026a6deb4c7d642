#include "trainers/decode_sweep.h"

#include "framework/progress/progress.h"
#include "models/decoder.h"
#include "models/flops.h"
#include "models/layers/kv_cache.h"
#include "trainers/speed.h"

namespace regroup {
namespace {

constexpr double kCachedValue = 0.01;  // speed does not depend on it

DecoderConfig with_kv_heads(DecoderConfig config, int64_t n_kv_head) {
  config.set_n_kv_head(std::vector<int64_t>(config.layers.size(), n_kv_head));
  return config;
}

KvCache full_cache(const Decoder& model, int64_t batch, int64_t prompt, int64_t capacity) {
  KvCache cache(model.config(), batch, capacity, model.options());
  for (int64_t i = 0; i < model.config().n_layer(); ++i) {
    cache.layer(i).keys.fill_(kCachedValue);
    cache.layer(i).values.fill_(kCachedValue);
  }
  cache.advance(prompt);
  return cache;
}

/// tokens/s of n_new steps; one more comes first.
double decode_speed(Decoder& model, int64_t batch, int64_t prompt, int64_t n_new) {
  const torch::NoGradGuard no_grad;
  auto cache = full_cache(model, batch, prompt, prompt + n_new + 1);
  auto tokens = torch::zeros({batch, 1},
                             torch::TensorOptions(torch::kInt64).device(model.options().device()));
  std::vector<double> seconds;
  for (int64_t i = 0; i <= n_new; ++i) {
    const double begin = steady_seconds();
    tokens = model.predictions(tokens, &cache).logits(0, batch).argmax(-1, /*keepdim=*/true);
    tokens.sum().item<int64_t>();  // waits for the device
    if (i > 0) seconds.push_back(steady_seconds() - begin);
  }
  return static_cast<double>(batch) / median(seconds);
}

}  // namespace

std::vector<int64_t> kv_heads_to_compare(int64_t n_head) {
  std::vector<int64_t> heads{n_head};
  while (heads.back() % 2 == 0) heads.push_back(heads.back() / 2);
  if (heads.back() != 1) heads.push_back(1);
  return heads;
}

double bytes_of_step(const DecoderConfig& config, int64_t batch, int64_t positions,
                     int64_t number_bytes) {
  const double weights = forward_flops_per_token(config, /*seq_len=*/0) / 2;
  return weights * static_cast<double>(number_bytes) +
         static_cast<double>(batch * positions * config.kv_bytes_per_token(number_bytes));
}

std::vector<SweepPoint> sweep_decoding(const DecoderConfig& config,
                                       const std::function<Decoder(const DecoderConfig&)>& make,
                                       const DecodeSweep& sweep,
                                       const std::function<void()>& on_measured) {
  std::vector<SweepPoint> points;
  for (const int64_t n : sweep.n_kv_head) {
    for (const int64_t batch : sweep.batches) {
      for (const int64_t prompt : sweep.prompts) points.push_back({n, batch, prompt, 0, 0, 1, 1});
    }
  }
  std::vector<std::vector<double>> speeds(points.size());
  int64_t number_bytes = 0;
  const size_t n_points = sweep.batches.size() * sweep.prompts.size();  // of a number of heads
  for (int64_t round = 0; round < sweep.rounds; ++round) {
    for (size_t first = 0; first < points.size(); first += n_points) {
      auto model = make(with_kv_heads(config, points[first].n_kv_head));
      number_bytes = static_cast<int64_t>(model.options().dtype().itemsize());
      for (size_t i = first; i < first + n_points; ++i) {
        speeds[i].push_back(decode_speed(model, points[i].batch, points[i].prompt, sweep.n_new));
        on_measured();
      }
    }
  }
  const auto bytes_of = [&](const SweepPoint& point) {
    return bytes_of_step(with_kv_heads(config, point.n_kv_head), point.batch,
                         point.prompt + sweep.n_new / 2, number_bytes);
  };
  for (size_t i = 0; i < points.size(); ++i) {
    auto& point = points[i];
    const auto& baseline = points[i % n_points];
    point.tokens_per_s = median(speeds[i]);
    point.spread = spread(speeds[i]);
    point.gain = point.tokens_per_s / baseline.tokens_per_s;
    point.predicted = bytes_of(baseline) / bytes_of(point);
  }
  return points;
}

}  // namespace regroup
