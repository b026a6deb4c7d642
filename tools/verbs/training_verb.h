// tools/verbs/training_verb.h: options and results that pretrain and uptrain share.
#pragma once

#include <string>
#include <vector>

#include "framework/errors/error.h"
#include "tools/command_line/command_line.h"
#include "trainers/runs.h"

namespace regroup {

struct TrainingVerb {
  RunResult (*run)(const TrainConfig& config, const std::string& resolved_config,
                   const RunStart& start, World& world);
  /// Whether the run reads a key: the others are left out of the run's config.ini.
  bool (*reads)(const TrainConfig& config, const std::string& key);
};

/// Parses the config, its overrides and --run, --force, --resume; runs the training on all ranks;
/// prints the evaluation if there is one.
ExitCode run_training(const VerbHelp& help, const TrainingVerb& verb,
                      const std::vector<std::string>& arguments);

}  // namespace regroup
