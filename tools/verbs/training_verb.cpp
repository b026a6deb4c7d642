#include "tools/verbs/training_verb.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/progress/console.h"
#include "models/run_layout.h"
#include "tools/command_line/processes.h"
#include "trainers/evaluation.h"
#include "trainers/run_setup.h"

namespace regroup {

namespace {

/// The result of training, for a run without an evaluation.
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

/// The command line of a training verb.
struct TrainingRequest {
  TrainConfig config;
  ConfigSchema schema;
  RunStart start;
  std::optional<std::filesystem::path> json_file;
  bool only_help = false;

  TrainingRequest(const VerbHelp& help, const std::vector<std::string>& arguments) {
    declare(schema, config);
    ResumeMode resume = ResumeMode::kLatest;
    CommandLine line(help);
    line.add_config(&schema);
    line.add("run", &start.folder, "the run's folder").shown_as("DIR").required();
    line.add("resume", &resume, "continue from the newest checkpoint; auto skips damaged ones",
             EnumNames<ResumeMode>{{"latest", ResumeMode::kLatest}, {"auto", ResumeMode::kAuto}})
        .without_value_means("latest");
    line.add_force(&start.force);
    line.add_json(&json_file);
    line.add_quiet();
    only_help = !line.parse(arguments);
    if (line.given("resume")) start.resume = resume;
    start.inputs = config.inputs();
  }
  TrainingRequest(const TrainingRequest&) = delete;  // the schema refers to the config
  TrainingRequest& operator=(const TrainingRequest&) = delete;
};

/// Prints and writes the result of a finished run, on rank 0.
void give_results(const TrainingRequest& request, const RunResult& result) {
  const auto& [outcome, evaluation] = result;
  const auto model = request.start.folder / kFinal;
  if (request.json_file) {
    write_results_file(*request.json_file,
                       evaluation.is_null() ? account(outcome, model) : evaluation);
  }
  if (!evaluation.is_null()) std::cout << evaluation_table(evaluation);
  note("the model is in " + model.string());
}

ExitCode run_in(World& world, const TrainingVerb& verb, const TrainingRequest& request) {
  const auto counts = [&](const std::string& key) { return verb.reads(request.config, key); };
  const auto ini = request.schema.to_ini(counts);
  const auto result = verb.run(request.config, ini, request.start, world);
  if (result.outcome.interrupted) {
    note("interrupted; a checkpoint was saved. Continue with --resume.");
    return ExitCode::kInterrupted;
  }
  if (world.is_rank_0()) give_results(request, result);
  return ExitCode::kDone;
}

}  // namespace

ExitCode run_training(const VerbHelp& help, const TrainingVerb& verb,
                      const std::vector<std::string>& arguments) {
  std::optional<TrainingRequest> request;
  const auto parse = [&]() -> std::optional<ProcessOptions> {
    request.emplace(help, arguments);
    if (request->only_help) return std::nullopt;
    const auto& config = request->config;
    return ProcessOptions{config.dist, device_kind(config), request->schema.values()};
  };
  return run_on_all_ranks(parse, [&](World& world) { return run_in(world, verb, *request); });
}

}  // namespace regroup
