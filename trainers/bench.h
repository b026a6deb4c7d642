// trainers/bench.h: how fast a model trains on this machine.
#pragma once

#include <cstdint>

#include "models/decoder.h"

namespace regroup {

/// Medians over steps, after a warm-up.
struct TrainingSpeed {
  int64_t steps;  // that were timed
  double step_s;
  double tokens_per_s;
  double mfu;  // of the peak that matrix products reach on this machine
};

/// Trains model, whose gradients are enabled, on random tokens with AdamW for about `seconds`:
/// steps of batch sequences of seq_len tokens, forward, backward and update.
TrainingSpeed measure_training(Decoder& model, int64_t batch, int64_t seq_len, double seconds);

}  // namespace regroup
