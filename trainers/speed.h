// trainers/speed.h: how fast a model trains and decodes.
#pragma once

#include <cstdint>
#include <vector>

#include "framework/distributed/world.h"
#include "models/decoder.h"

namespace regroup {

/// Of at least one value; the upper one of two in the middle.
double median(std::vector<double> values);

struct DecodeSpeed {
  double prefill_tokens_per_s;  // prompt tokens of the whole batch
  double decode_tokens_per_s;   // new tokens of the whole batch, decoding only
};

/// Runs prompts of random tokens and n_new greedy tokens after them, again and again for about
/// `seconds`; medians.
DecodeSpeed measure_decode(Decoder& model, int64_t batch, int64_t prompt, int64_t n_new,
                           double seconds);

/// Medians over steps, after a warm-up.
struct TrainingSpeed {
  int64_t steps;  // that were timed
  double step_s;
  double tokens_per_s;  // of all processes
  double mfu;           // of the peak that matrix products reach on this machine
  int64_t sent_bytes;   // of a step, by this process
};

/// Trains model, whose gradients are enabled, on random tokens with AdamW for about `seconds`:
/// steps of batch sequences of seq_len tokens, forward, backward and update. Of several processes
/// each takes as many sequences, and all call it alike.
TrainingSpeed measure_training(Decoder& model, int64_t batch, int64_t seq_len, double seconds,
                               World& world);

}  // namespace regroup
