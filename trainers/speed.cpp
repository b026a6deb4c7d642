#include "trainers/speed.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "framework/progress.h"
#include "framework/random.h"
#include "models/generate.h"

namespace regroup {
namespace {

constexpr int kRounds = 3;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

DecodeSpeed measure_decode(Decoder& model, int64_t batch, int64_t prompt, int64_t n_new) {
  auto random = seeded_generator(0, "prompts of a decoding benchmark");
  const auto prompts =
      torch::randint(model.config().vocab_size, {batch, prompt}, random, torch::kInt64).to(model.options().device());
  const double tokens = static_cast<double>(batch * (n_new - 1));  // the first comes from the prefill
  std::vector<double> prefill, decode;
  for (int round = 0; round < kRounds; ++round) {
    const double start = steady_seconds();
    double first_token_at = 0;
    int64_t sum = 0;
    generate(model, prompts, n_new, {}, [&](const torch::Tensor& next) {
      sum += next[0].item<int64_t>();  // waits for the device
      if (first_token_at == 0) first_token_at = steady_seconds();
      return true;
    });
    prefill.push_back(static_cast<double>(batch * prompt) / (first_token_at - start));
    decode.push_back(tokens / (steady_seconds() - first_token_at));
  }
  return {median(prefill), median(decode)};
}

}  // namespace regroup
