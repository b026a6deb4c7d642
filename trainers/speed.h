// trainers/speed.h: how fast a model decodes.
#pragma once

#include <cstdint>

#include "models/decoder.h"

namespace regroup {

struct DecodeSpeed {
  double prefill_tokens_per_s;  // prompt tokens of the whole batch
  double decode_tokens_per_s;   // new tokens of the whole batch, decoding only
};

/// Runs prompts of random tokens and n_new greedy tokens after them, several rounds; medians.
DecodeSpeed measure_decode(Decoder& model, int64_t batch, int64_t prompt, int64_t n_new);

}  // namespace regroup
