// trainers/runs.h: whole training runs, from config to a model folder: what `pretrain` and
// `uptrain` do.
#pragma once

#include <nlohmann/json.hpp>

#include "trainers/run_folder.h"
#include "trainers/train_config.h"
#include "trainers/trainer.h"

namespace regroup {

struct RunResult {
  TrainingOutcome outcome;
  nlohmann::ordered_json evaluation;  // null where none was made
};

/// Trains a decoder from random weights and writes final/. resolved_config is saved as the run's
/// config.ini. Throws a request Error for an incomplete config before any work starts. Every rank
/// must call it.
RunResult pretrain(const TrainConfig& config, const std::string& resolved_config,
                   const RunStart& start, World& world);

/// Converts the original if [convert] says so, trains it for alpha of the original's steps, writes
/// final/, and evaluates the original, converted and uptrained models into evaluation.json.
RunResult uptrain(const TrainConfig& config, const std::string& resolved_config,
                  const RunStart& start, World& world);

}  // namespace regroup
