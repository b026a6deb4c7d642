// trainers/trainer.h: the training loop that pretraining and uptraining share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "framework/data/token_data.h"
#include "models/decoder.h"
#include "models/hf_checkpoint.h"
#include "trainers/checkpoint.h"
#include "trainers/run_folder.h"
#include "trainers/train_config.h"

namespace regroup {

/// What is trained, on what, for how long.
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

/// Trains the model until the job's last step, from the run's newest checkpoint where it resumes;
/// writes metrics and checkpoints into the run's folder. All processes of the world call it alike.
/// Throws Error when max_skipped_steps steps in a row were not finite.
TrainingOutcome train(Decoder& model, RunFolder& run, const TrainingJob& job, World& world);

/// The model's provenance after training on: steps, tokens and FLOPs added to what it was before
/// the run.
Provenance trained_provenance(const TrainingJob& job, const TrainState& state);

/// Steps for the config's steps or tokens; nothing where it gives neither.
std::optional<int64_t> configured_steps(const TrainConfig& config);

}  // namespace regroup
