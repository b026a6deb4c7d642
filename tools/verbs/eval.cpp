#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/files/json.h"
#include "models/run_layout.h"
#include "models/token_meaning.h"
#include "tools/command_line/compute.h"
#include "tools/verbs/verbs.h"
#include "trainers/evaluation.h"

namespace regroup {

namespace {

std::vector<TokenMeaning> token_meanings(const EvaluationRequest& request) {
  std::vector<TokenMeaning> meanings{token_meaning(request.data)};
  if (request.choices) meanings.push_back(token_meaning(*request.choices));
  for (const auto& model : request.models)
    meanings.push_back(token_meaning(ModelFolder::open(model.path)));
  if (request.reference) meanings.push_back(token_meaning(ModelFolder::open(*request.reference)));
  return meanings;
}

/// The model's name, or where another model has the same, its path.
std::string name_in_table(const std::filesystem::path& model,
                          const std::vector<std::filesystem::path>& models) {
  const auto name = model_name(model);
  const auto n_alike = std::count_if(models.begin(), models.end(), [&](const auto& other) {
    return model_name(other) == name;
  });
  return n_alike == 1 ? name : std::filesystem::relative(model).string();
}

}  // namespace

ExitCode run_eval(const std::vector<std::string>& arguments) {
  EvaluationRequest request;
  std::vector<std::filesystem::path> models;
  bool speed = false;
  Compute compute;
  std::optional<std::filesystem::path> json_file;
  CommandLine line(
      {.verb = "eval",
       .usage = "--model MODEL [--model MODEL ...] --data FILE.h5 [options]",
       .summary = "Quality and inference cost of models, side by side.",
       .example =
           "regroup eval --model runs/mha --model runs/gqa2 --reference runs/mha --data data.h5 "
           "--choices data.h5 --speed"});
  line.add("model", &models, "a model to evaluate").shown_as("MODEL").required();
  line.add("reference", &request.reference, "model that agreement and KL compare with")
      .shown_as("MODEL");
  line.add("data", &request.data, "token file").shown_as("FILE.h5").required();
  line.add("split", &request.split, "split of the token file");
  line.add("choices", &request.choices, "token file with choice questions").shown_as("FILE.h5");
  bool allow_other_tokenizer = false;
  line.add_flag("allow-other-tokenizer", &allow_other_tokenizer, kAllowOtherTokenizer);
  line.add_flag("speed", &speed, "also measure decoding at batch 1 and 16");
  compute.declare_on(line);
  line.add_json(&json_file);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  for (const auto& model : models) request.models.push_back({model, name_in_table(model, models)});
  require_same_tokens(token_meanings(request), allow_other_tokenizer);
  request.options = compute.use();
  World alone;
  auto evaluation = evaluate(request, alone);
  if (speed) measure_speeds(evaluation, request);
  std::cout << evaluation_table(evaluation);
  if (json_file) write_results_file(*json_file, evaluation);
  return ExitCode::kDone;
}

}  // namespace regroup
