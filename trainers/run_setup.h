// trainers/run_setup.h: the steps that pretraining and uptraining share around the training loop.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "framework/data/token_data.h"
#include "models/token_meaning.h"
#include "trainers/run_folder.h"
#include "trainers/train_config.h"
#include "trainers/trainer.h"

namespace regroup {

/// The token files that a run trains, validates and is evaluated on, opened and checked.
struct RunData {
  TokenData train;
  std::optional<TokenData> val;
  std::optional<Choices> choices;

  const TokenSplit& train_split() const { return train.split("train"); }
  const TokenSplit* val_split() const { return val ? &val->split("val") : nullptr; }
};

/// Throws a request Error where [data] train is missing, an Error where a file is unsound or a
/// split shorter than one sequence.
RunData open_run_data(const TrainConfig& config);
/// Throws Error when a token is beyond the model's vocabulary, or a choice question longer than its
/// context.
void check_run_data(const RunData& data, const DecoderConfig& model);

/// What the run's token files say about their ids, for require_same_tokens.
std::vector<TokenMeaning> token_meanings(const TrainConfig& config);

/// The device that [train] device asks for; device_of gives this process's.
torch::DeviceType device_kind(const TrainConfig& config);

/// The device of this process by [train] device: each process of a node has a separate GPU.
/// Throws a request Error for one that is not there.
torch::Device device_of(const TrainConfig& config, const World& world);

/// Threads, where [train] threads gives a number, device and dtype as [train] says: each process of
/// a node has its own GPU. Throws a request Error for a device that is not there.
torch::TensorOptions use_machine(const TrainConfig& config, const World& world);

/// What must stay the same when a run is resumed. starting_weights: the hash of the weights it
/// started from, or "".
RunIdentity run_identity(const TrainConfig& config, const DecoderConfig& model, const RunData& data,
                         const std::string& starting_weights);

/// Trains the model and, unless the run was interrupted, writes it to final/. The model is gone
/// afterwards: what follows has its memory. Throws a request Error where the processes differ in
/// data or model.
TrainingOutcome train_to_the_end(Decoder model, RunFolder& run, const TrainingJob& job,
                                 World& world);

/// A short account of the run on stderr before it starts.
void describe_run(const TrainingJob& job, const World& world);

}  // namespace regroup
