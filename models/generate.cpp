#include "models/generate.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/tensors/random.h"
#include "models/finite.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr double kNever = -std::numeric_limits<double>::infinity();

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

Tensor sample(const Tensor& logits, const Sampling& sampling, at::Generator& generator) {
  if (sampling.temperature == 0) return logits.argmax(-1);
  // Subtract the highest logit first, so that a low temperature does not overflow.
  auto scaled = (logits - logits.amax(-1, /*keepdim=*/true)) / sampling.temperature;
  if (sampling.top_k) scaled = keep_top_k(scaled, *sampling.top_k);
  if (sampling.top_p) scaled = keep_top_p(scaled, *sampling.top_p);
  return torch::multinomial(scaled.softmax(-1).cpu(), 1, /*replacement=*/true, generator)
      .squeeze(-1)
      .to(logits.device());
}

void generate(Decoder& model, const Tensor& prompts, int64_t n_new, const Sampling& sampling,
              const std::function<bool(const Tensor&)>& on_token) {
  Generation generation(model, prompts.size(0), prompts.size(1) + n_new);
  auto generator = seeded_generator(sampling.seed, "sampling");
  auto tokens = prompts;
  for (int64_t i = 0; i < n_new; ++i) {
    const auto logits = generation.advance(tokens);
    // The maximum is NaN where any logit is.
    if (!logits.amax(-1).isfinite().all().item<bool>())
      refuse_nonfinite_results(model, generation.seen());
    const auto next = sample(logits, sampling, generator);
    if (!on_token(next)) return;
    tokens = next.unsqueeze(-1);
  }
}

}  // namespace regroup
