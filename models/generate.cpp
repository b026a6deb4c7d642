#include "models/generate.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <limits>

#include "framework/tensors/random.h"
#include "models/finite.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kLeastTemperature = 1e-30;  // in float32, much smaller ones are 0

Tensor keep_top_k(const Tensor& logits, int64_t k) {
  const auto lowest_kept =
      std::get<0>(logits.topk(std::min(k, logits.size(-1)))).select(-1, -1).unsqueeze(-1);
  return logits.masked_fill(logits.lt(lowest_kept), kNever);
}

/// Keeps the most likely tokens whose probabilities together reach p.
Tensor keep_top_p(const Tensor& logits, double p) {
  const auto [sorted, order] = logits.sort(-1, /*descending=*/true);
  const auto probability = sorted.softmax(-1);
  const auto before = probability.cumsum(-1) - probability;
  const auto kept = sorted.masked_fill(before.ge(p), kNever);
  return torch::empty_like(logits).scatter_(-1, order, kept);
}

/// Drops the tokens that are less than p times as likely as the most likely one.
Tensor keep_min_p(const Tensor& logits, double p) {
  const auto probability = logits.softmax(-1);
  return logits.masked_fill(probability.lt(p * probability.amax(-1, /*keepdim=*/true)), kNever);
}

Tensor penalize_seen(const Tensor& logits, const Tensor& seen, double penalty) {
  const auto of_seen = logits.gather(-1, seen);
  const auto penalized = torch::where(of_seen.lt(0), of_seen * penalty, of_seen / penalty);
  return logits.scatter(-1, seen, penalized);
}

/// A token of each row, drawn by the row's generator.
Tensor draw(const Tensor& logits, std::vector<at::Generator>& generators) {
  const auto probability = logits.softmax(-1).cpu();
  std::vector<Tensor> tokens;
  for (size_t i = 0; i < generators.size(); ++i) {
    tokens.push_back(torch::multinomial(probability[static_cast<int64_t>(i)], 1,
                                        /*replacement=*/true, generators[i]));
  }
  return torch::cat(tokens).to(logits.device());
}

}  // namespace

Generation::Generation(Decoder& model, int64_t batch, int64_t capacity)
    : model_(model), cache_(model.config(), batch, capacity, model.options()) {}

Tensor Generation::advance(const Tensor& tokens) {
  const torch::NoGradGuard no_grad;
  seen_ = seen_.defined() ? torch::cat({seen_, tokens}, 1) : tokens;
  const bool starts_again = model_.cache_ends_between(cache_.length(), seen_.size(1));
  if (starts_again) cache_.clear();
  auto predictions = model_.predictions(starts_again ? seen_ : tokens, &cache_);
  const auto by_position = predictions.hidden.unflatten(0, {tokens.size(0), -1});
  predictions.hidden = by_position.select(1, -1).contiguous();
  return predictions.logits(0, tokens.size(0)).to(torch::kFloat32);
}

Tensor adjusted_logits(const Tensor& logits, const Tensor& seen, const Sampling& sampling) {
  auto adjusted = logits;
  if (sampling.repetition_penalty != 1)
    adjusted = penalize_seen(adjusted, seen, sampling.repetition_penalty);
  if (sampling.temperature == 0) return adjusted;
  // Subtract the highest logit first, so that a low temperature does not overflow.
  adjusted = (adjusted - adjusted.amax(-1, /*keepdim=*/true)) /
             std::max(sampling.temperature, kLeastTemperature);
  if (sampling.top_k) adjusted = keep_top_k(adjusted, *sampling.top_k);
  if (sampling.top_p) adjusted = keep_top_p(adjusted, *sampling.top_p);
  if (sampling.min_p) adjusted = keep_min_p(adjusted, *sampling.min_p);
  return adjusted;
}

void generate(Decoder& model, const Tensor& prompts, int64_t n_new, const Sampling& sampling,
              const std::vector<uint64_t>& seeds,
              const std::function<bool(const Tensor&)>& on_tokens) {
  Generation generation(model, prompts.size(0), prompts.size(1) + n_new);
  std::vector<at::Generator> generators;
  for (const uint64_t seed : seeds) generators.push_back(seeded_generator(seed, "sampling"));
  auto tokens = prompts;
  for (int64_t i = 0; i < n_new; ++i) {
    const auto logits = generation.advance(tokens);
    // The maximum is NaN where any logit is.
    if (!logits.amax(-1).isfinite().all().item<bool>())
      refuse_nonfinite_results(model, generation.seen());
    const auto adjusted = adjusted_logits(logits, generation.seen(), sampling);
    const auto next = sampling.temperature == 0 ? adjusted.argmax(-1) : draw(adjusted, generators);
    if (!on_tokens(next)) return;
    tokens = next.unsqueeze(-1);
  }
}

}  // namespace regroup
