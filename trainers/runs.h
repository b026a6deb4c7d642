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

/// Trains a decoder from random weights. resolved_config is saved as the run's config.ini. Writes
/// final/. Throws a request Error for a config that misses something, before any work starts. All
/// processes of the world call it alike.
RunResult pretrain(const TrainConfig& config, const std::string& resolved_config,
                   const RunStart& start, World& world);

/// Converts the original where [convert] says so, trains it for alpha of the original's steps,
/// writes final/, and evaluates original, converted and uptrained model side by side into
/// evaluation.json.
RunResult uptrain(const TrainConfig& config, const std::string& resolved_config,
                  const RunStart& start, World& world);

}  // namespace regroup
