// trainers/run_parts.h: the steps that pretraining and uptraining share around the training loop.
#pragma once

#include <optional>
#include <string>

#include "framework/data/token_data.h"
#include "trainers/run_folder.h"
#include "trainers/train_config.h"
#include "trainers/trainer.h"

namespace regroup {

/// The token files that a run trains and validates on, opened and checked.
struct RunData {
  TokenData train;
  std::optional<TokenData> val;

  const TokenSplit& train_split() const { return train.split("train"); }
  const TokenSplit* val_split() const { return val ? &val->split("val") : nullptr; }
};

/// Throws a request Error where [data] train is missing, an Error where a file is unsound.
RunData open_run_data(const TrainConfig& config);
/// Throws Error when a token is beyond the vocabulary.
void check_vocabulary(const RunData& data, int64_t vocab_size);

/// Threads, device and dtype as [train] says. Throws a request Error for a device that is not there.
torch::TensorOptions use_machine(const TrainConfig& config);

/// What must stay the same when a run is resumed. starting_weights: the hash of the weights it started from, or "".
RunIdentity run_identity(const TrainConfig& config, const DecoderConfig& model, const RunData& data,
                         const std::string& starting_weights);

/// Writes the trained model to final/.
void write_final(const RunFolder& run, const TrainingJob& job, const TrainState& state, const Decoder& model);

/// A short account of the run on stderr before it starts.
void describe_run(const TrainingJob& job);

}  // namespace regroup
