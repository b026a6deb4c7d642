#include "tools/training_verb.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/console.h"
#include "framework/json.h"
#include "trainers/evaluation.h"

namespace regroup {

ExitCode run_training(const VerbHelp& help, TrainingRun run, const std::vector<std::string>& arguments) {
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

  const auto result = run(config, schema.to_ini(), start);
  if (result.interrupted) {
    note("interrupted; a checkpoint was saved. Go on with --resume.");
    return ExitCode::kInterrupted;
  }
  if (!result.evaluation.is_null()) {
    std::cout << evaluation_table(result.evaluation);
    if (json_file) write_json_file(*json_file, result.evaluation);
  }
  note("the model is in " + (start.folder / "final").string());
  return ExitCode::kDone;
}

}  // namespace regroup
