#include "trainers/training_step.h"

#include <cmath>

#include "framework/parameters/adamw.h"

namespace regroup {

GradientSums sum_gradients(Decoder& model, int64_t n_passes,
                           const std::function<torch::Tensor()>& loss_of, World& world,
                           const std::function<bool()>& stops) {
  model.zero_gradients();
  double loss_sum = 0;
  for (int64_t i = 0; i < n_passes; ++i) {
    model.begin_pass(/*is_last=*/i + 1 == n_passes);
    const auto loss = loss_of();
    loss.backward();
    loss_sum += loss.item<double>();
  }
  model.finish_exchanges();
  const auto sums = world.sum({loss_sum, gradient_square(model.blocks()), stops() ? 1.0 : 0.0});
  return {sums[0], std::sqrt(sums[1]), sums[2] > 0};
}

double clip_factor(double norm, double most) { return most > 0 && norm > most ? most / norm : 1; }

}  // namespace regroup
