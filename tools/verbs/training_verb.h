// tools/verbs/training_verb.h: what the verbs that train share: their options, and how a run ends.
#pragma once

#include <string>
#include <vector>

#include "framework/errors/error.h"
#include "tools/command_line/command_line.h"
#include "trainers/runs.h"

namespace regroup {

using TrainingRun = RunResult (*)(const TrainConfig& config, const std::string& resolved_config,
                                  const RunStart& start, World& world);

/// Parses the config, its overrides and --run, --force, --resume; runs, together with the other
/// processes where a launcher started several; prints the evaluation, where there is one.
ExitCode run_training(const VerbHelp& help, TrainingRun run,
                      const std::vector<std::string>& arguments);

}  // namespace regroup
