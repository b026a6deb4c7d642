// trainers/decode_sweep.h: what fewer K/V heads gain in decoding, and what their bytes predict.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/decoder.h"

namespace regroup {

/// What is measured, each with each.
struct DecodeSweep {
  std::vector<int64_t> n_kv_head;  // of every layer; the first is what the others are compared with
  std::vector<int64_t> batches, prompts;
  int64_t n_new = 16;
  int64_t rounds = 3;
};

struct SweepPoint {
  int64_t n_kv_head, batch, prompt;
  double tokens_per_s;  // of the whole batch; median over rounds
  double spread;        // of the rounds
  double gain;          // tokens/s over those of the first number of K/V heads
  double predicted;     // the gain if a step's time were that of reading bytes_of_step()
};

/// K/V heads to compare: the query heads (MHA), then half as many and so on, down to one (MQA).
std::vector<int64_t> kv_heads_to_compare(int64_t n_head);

/// Bytes that a step of decoding must read: the weights of every matrix once, and each sequence's
/// keys and values of `positions`, all of them numbers of number_bytes.
double bytes_of_step(const DecoderConfig& config, int64_t batch, int64_t positions,
                     int64_t number_bytes);

/// Decodes from a full cache of arbitrary values. The numbers of K/V heads take turns in each
/// round, with a model that make() makes. on_measured is called after each measurement. config: the
/// model, whatever its K/V heads; each number of the sweep must divide its query heads.
std::vector<SweepPoint> sweep_decoding(const DecoderConfig& config,
                                       const std::function<Decoder(const DecoderConfig&)>& make,
                                       const DecodeSweep& sweep,
                                       const std::function<void()>& on_measured);

}  // namespace regroup
