#include "models/convert/convert.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/atomic_write.h"
#include "framework/json.h"
#include "models/convert/methods.h"
#include "tools/command_line.h"
#include "tools/verbs.h"
#include "trainers/output_folder.h"

namespace regroup {
namespace {

nlohmann::ordered_json account(const ModelFolder& source, const ModelFolder& converted) {
  const auto kv_bytes = [](const ModelFolder& model) {
    return model.config().kv_bytes_per_token(static_cast<int64_t>(c10::elementSize(model.dtype())));
  };
  nlohmann::ordered_json json;
  json["from"] = source.path().string();
  json["to"] = converted.path().string();
  json["method"] = converted.provenance().method;
  json["n_kv_head"] = {{"before", source.config().n_kv_head},
                       {"after", converted.config().n_kv_head}};
  json["parameters"] = {{"before", source.config().n_parameters()},
                        {"after", converted.config().n_parameters()}};
  json["kv_bytes_per_token"] = {{"before", kv_bytes(source)}, {"after", kv_bytes(converted)}};
  return json;
}

}  // namespace

ExitCode run_convert(const std::vector<std::string>& arguments) {
  std::filesystem::path from, to;
  ConversionPlan plan;
  int64_t seed = 0;
  bool force = false;
  std::optional<std::filesystem::path> json_file;
  CommandLine line(
      {.verb = "convert",
       .usage = "--from MODEL --to DIR --kv-heads N [options]",
       .summary = "Pools the K/V heads of a checkpoint; trains nothing.",
       .example = "regroup convert --from llama-2-7b --to llama-2-7b-gqa8 --kv-heads 8"});
  line.add("from", &from, "the original").shown_as("MODEL").required();
  line.add("to", &to, "folder to write").shown_as("DIR").required();
  line.add("kv-heads", &plan.n_kv_head, "K/V heads to keep, one number or one a layer", at_least(1))
      .required();
  line.add("method", &plan.method, "how heads are pooled", conversion_method_names());
  line.add("seed", &seed, "of the method random", at_least(0));
  line.add_force(&force);
  line.add_json(&json_file);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  plan.seed = static_cast<uint64_t>(seed);
  check_output_folder(to, force);
  const auto source = ModelFolder::open(from);
  AtomicFolder folder(to);
  convert_model(source, plan, folder.path());
  folder.commit_replacing();
  const auto converted = ModelFolder::open(to);
  const auto json = account(source, converted);
  std::cout << "K/V heads " << kv_heads_text(source.config().n_kv_head) << " -> "
            << kv_heads_text(converted.config().n_kv_head) << " by " << plan.method
            << ", K/V bytes a token " << json["kv_bytes_per_token"]["before"] << " -> "
            << json["kv_bytes_per_token"]["after"] << ": " << to.string() << "\n";
  if (json_file) write_json_file(*json_file, json);
  return ExitCode::kDone;
}

}  // namespace regroup
