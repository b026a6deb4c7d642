#include "framework/functions/likeness.h"

#include <torch/types.h>
#include <torch/utils.h>

namespace regroup {
namespace {

using torch::Tensor;

Tensor log_probabilities(const Predictions& predictions, int64_t first, int64_t n_rows) {
  return torch::log_softmax(predictions.logits(first, n_rows).to(torch::kFloat32), -1);
}

double sum_of(const Tensor& x) { return x.sum(torch::kFloat64).item<double>(); }

}  // namespace

void LikenessMeter::add(const Predictions& model, const Predictions& reference,
                        const Tensor& targets) {
  const torch::NoGradGuard no_grad;
  const int64_t n = targets.size(0);
  for_each_logit_chunk(n, model.vocab_size(), [&](int64_t first, int64_t n_rows) {
    const auto log_p = log_probabilities(reference, first, n_rows);
    const auto log_q = log_probabilities(model, first, n_rows);
    const auto target = targets.narrow(0, first, n_rows).unsqueeze(-1);
    sums_.loss -= sum_of(log_q.gather(-1, target));
    sums_.reference_loss -= sum_of(log_p.gather(-1, target));
    sums_.agreement += sum_of(log_p.argmax(-1).eq(log_q.argmax(-1)));
    sums_.kl += sum_of(log_p.exp() * (log_p - log_q));
  });
  n_tokens_ += n;
}

std::vector<double> LikenessMeter::sums() const {
  return {sums_.loss, sums_.reference_loss, sums_.agreement, sums_.kl,
          static_cast<double>(n_tokens_)};
}

void LikenessMeter::set_sums(const std::vector<double>& sums) {
  sums_ = {sums.at(0), sums.at(1), sums.at(2), sums.at(3)};
  n_tokens_ = static_cast<int64_t>(sums.at(4));
}

Likeness LikenessMeter::mean() const {
  const auto n = static_cast<double>(std::max<int64_t>(1, n_tokens_));
  return {sums_.loss / n, sums_.reference_loss / n, sums_.agreement / n, sums_.kl / n};
}

}  // namespace regroup
