// trainers/trainer.h: the training loop that pretraining and uptraining share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "framework/data/token_data.h"
#include "models/decoder.h"
#include "models/model_writer.h"
#include "trainers/checkpoint.h"
#include "trainers/run_folder.h"
#include "trainers/train_config.h"

namespace regroup {

/// The model, the data and the length of a training run.
struct TrainingJob {
  std::string label;  // "pretrain" or "uptrain", for progress
  const TrainConfig& config;
  int64_t steps;                 // of the whole run
  ModelDescription description;  // of the model before this run
  const TokenSplit& train;
  const TokenSplit* val;        // null: no validation losses
  Decoder* teacher = nullptr;   // whom [distill] learns from
  RunIdentity identity;         // what a resumed run must share
  std::string resolved_config;  // becomes the run's config.ini once its checkpoint is accepted
};

struct TrainingOutcome {
  TrainState state;
  bool interrupted = false;              // by SIGINT or SIGTERM, after a checkpoint was saved
  std::optional<double> loss, val_loss;  // the last of this process
};

/// Trains the model to the job's last step, starting from the newest checkpoint if the run is
/// resumed. Writes metrics and checkpoints to the run's folder. Every rank must call it. Throws
/// Error if max_skipped_steps steps in a row were not finite.
TrainingOutcome train(Decoder& model, RunFolder& run, const TrainingJob& job, World& world);

/// The model's provenance after training: the run's steps, tokens and FLOPs added to the values
/// before it.
Provenance trained_provenance(const TrainingJob& job, const TrainState& state);

/// Steps from [train] steps or tokens; nothing if neither is given.
std::optional<int64_t> configured_steps(const TrainConfig& config);

}  // namespace regroup
