// trainers/runs.h: whole training runs, from config to a model folder: what `pretrain` and
// `uptrain` do.
#pragma once

#include <nlohmann/json.hpp>

#include "models/model_folder.h"
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

/// Steps of an uptraining: ceil(alpha * the original's steps), which the config or the original's
/// config.json gives; else [train] steps or tokens. nullopt where none of them is known.
std::optional<int64_t> uptraining_steps(const TrainConfig& config, const ModelFolder& original);

}  // namespace regroup
