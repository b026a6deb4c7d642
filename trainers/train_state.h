// trainers/train_state.h: what a run needs beside the model's weights to go on as if it had never
// stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "framework/adamw.h"
#include "models/decoder.h"

namespace regroup {

struct TrainState {
  int64_t step = 0;           // optimizer steps begun, skipped ones included
  int64_t tokens = 0;         // trained on in this run
  int64_t skipped_steps = 0;  // for a loss or gradient that was not finite
  int64_t skipped_in_a_row = 0;
};

/// What must stay the same when a run is resumed: config keys and fingerprints by name.
using RunIdentity = std::map<std::string, std::string>;

/// Writes training_state.h5 into a checkpoint's folder: the counters, the optimizer's moments, and
/// the float32 masters where the model's weights are bfloat16.
void save_train_state(const std::filesystem::path& folder, const TrainState& state,
                      const RunIdentity& identity, const Decoder& model, AdamW& optimizer);

/// Reads it back, and the model's weights from the folder's safetensors. Throws a request Error
/// that lists what differs when the identity is another one; an Error when the files are damaged.
TrainState load_train_state(const std::filesystem::path& folder, const RunIdentity& identity,
                            Decoder& model, AdamW& optimizer);

}  // namespace regroup
