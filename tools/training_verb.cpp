#include "tools/training_verb.h"

#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/console.h"
#include "framework/error.h"
#include "framework/json.h"
#include "models/run_layout.h"
#include "trainers/evaluation.h"

namespace regroup {

namespace {

/// Several processes would write one run over one another.
void refuse_several_processes() {
  const char* world_size = std::getenv("WORLD_SIZE");
  if (!world_size || std::string(world_size) == "1") return;
  throw request_error("WORLD_SIZE",
                      c10::str("is ", world_size, ", but this version trains in one process"),
                      "Start one process.");
}

/// What training came to, for a run without an evaluation.
nlohmann::ordered_json account(const TrainingOutcome& outcome, const std::filesystem::path& model) {
  const auto number = [](std::optional<double> value) {
    return value ? nlohmann::ordered_json(*value) : nullptr;
  };
  return {{"model", model.string()},
          {"steps", outcome.state.step},
          {"tokens", outcome.state.tokens},
          {"loss", number(outcome.loss)},
          {"val_loss", number(outcome.val_loss)}};
}

}  // namespace

ExitCode run_training(const VerbHelp& help, TrainingRun run,
                      const std::vector<std::string>& arguments) {
  TrainConfig config;
  ConfigSchema schema;
  declare(schema, config);
  RunStart start;
  ResumeMode resume = ResumeMode::kLatest;
  std::optional<std::filesystem::path> json_file;
  CommandLine line(help);
  line.add_config(&schema);
  line.add("run", &start.folder, "the run's folder").shown_as("DIR").required();
  line.add("resume", &resume, "continue from the newest checkpoint; auto passes over a damaged one",
           EnumNames<ResumeMode>{{"latest", ResumeMode::kLatest}, {"auto", ResumeMode::kAuto}})
      .without_value_means("latest");
  line.add_force(&start.force);
  line.add_json(&json_file);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;
  if (line.given("resume")) start.resume = resume;

  refuse_several_processes();
  const auto [outcome, evaluation] = run(config, schema.to_ini(), start);
  if (outcome.interrupted) {
    note("interrupted; a checkpoint was saved. Go on with --resume.");
    return ExitCode::kInterrupted;
  }
  const auto model = start.folder / kFinal;
  if (json_file)
    write_json_file(*json_file, evaluation.is_null() ? account(outcome, model) : evaluation);
  if (!evaluation.is_null()) std::cout << evaluation_table(evaluation);
  note("the model is in " + model.string());
  return ExitCode::kDone;
}

}  // namespace regroup
