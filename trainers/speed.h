// trainers/speed.h: how fast a model trains and decodes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "framework/distributed/world.h"
#include "models/decoder.h"

namespace regroup {

/// The median of at least one value; of two in the middle, the upper one.
double median(std::vector<double> values);

/// How far the values are apart: (largest - smallest) / median.
double spread(const std::vector<double>& values);

/// "machine was busy ..." where busy_elsewhere processors, kept busy by other processes, left too
/// few for the threads of this job's n_processes on this node.
std::optional<std::string> busy_remark(double busy_elsewhere, int64_t n_processes = 1);

struct DecodeSpeed {
  double prefill_tokens_per_s;  // prompt tokens of the whole batch
  double decode_tokens_per_s;   // new tokens of the whole batch, decoding only
  double busy_elsewhere;        // processors that other processes kept busy meanwhile
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
  double peak_flops;    // FLOP/s that matrix products reach in all processes
  double mfu;
  int64_t sent_bytes;     // of a step, by this process
  double busy_elsewhere;  // processors of this node that other jobs kept busy meanwhile
};

/// Trains model, whose gradients are enabled, on random tokens with AdamW for about `seconds`:
/// steps of batch sequences of seq_len tokens, forward, backward and update. The peak is measured
/// before, between and after them. Of several processes each takes as many sequences, and all call
/// it alike.
TrainingSpeed measure_training(Decoder& model, int64_t batch, int64_t seq_len, double seconds,
                               World& world);

}  // namespace regroup
