#include "models/convert/convert.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/files/atomic_write.h"
#include "framework/files/json.h"
#include "framework/progress/console.h"
#include "framework/progress/progress.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/convert/methods.h"
#include "tools/command_line/command_line.h"
#include "tools/verbs/verbs.h"
#include "trainers/machine.h"
#include "trainers/output_folder.h"

namespace regroup {
namespace {

nlohmann::ordered_json layer_json(const ConversionReport::Layer& layer) {
  nlohmann::ordered_json json;
  json["groups"] = layer.groups;
  if (layer.error) {
    json["score_error"] = layer.error->scores;
    json["output_error"] = layer.error->outputs;
  }
  if (layer.refit) {
    json["stream_error"] = {{"pooled", layer.refit->error_before},
                            {"refit", layer.refit->error_after}};
    json["refit_strength"] = layer.refit->strength;
  }
  return json;
}

nlohmann::ordered_json account(const ModelFolder& source, const ModelFolder& converted,
                               const ConversionReport& report) {
  const auto width = static_cast<int64_t>(c10::elementSize(source.dtype()));
  const auto kv_bytes = [&](const ModelFolder& model) {
    return model.config().kv_bytes_per_token(width);
  };
  const auto& conversion = converted.provenance().conversion;
  nlohmann::ordered_json json;
  json["from"] = source.path().string();
  json["to"] = converted.path().string();
  json["method"] = conversion.method;
  json["grouping"] = conversion.grouping;
  json["refit"] = conversion.refit;
  json["calibration_tokens"] = report.calibration_tokens;
  json["n_kv_head"] = {{"before", source.config().n_kv_head()},
                       {"after", converted.config().n_kv_head()}};
  json["parameters"] = {{"before", n_parameters(source.config())},
                        {"after", n_parameters(converted.config())}};
  json["kv_bytes_per_token"] = {{"before", kv_bytes(source)}, {"after", kv_bytes(converted)}};
  json["layers"] = nlohmann::ordered_json::array();
  for (const auto& layer : report.layers) json["layers"].push_back(layer_json(layer));
  if (const auto& likeness = report.likeness) {
    json["held_out"] = {{"loss", {{"before", likeness->reference_loss}, {"after", likeness->loss}}},
                        {"kl", likeness->kl},
                        {"agreement", likeness->agreement}};
  }
  return json;
}

std::string groups_text(const Partition& groups) {
  std::vector<std::string> parts;
  for (const auto& group : groups) parts.push_back(c10::Join("+", group));
  return c10::Join(" ", parts);
}

/// What stands between projections and attention scores and makes pooling approximate even where
/// the method is exact; empty if nothing does.
std::string approximation(const DecoderConfig& config) {
  const auto any = [&](auto has) {
    return std::any_of(config.layers.begin(), config.layers.end(),
                       [&](const LayerConfig& layer) { return has(layer.attention); });
  };
  std::vector<std::string> causes;
  if (any([](const AttentionConfig& attention) { return attention.qk_norm.has_value(); }))
    causes.emplace_back("a norm of queries and keys");
  if (any([](const AttentionConfig& attention) { return attention.clip_qkv.has_value(); }))
    causes.emplace_back("a clip of queries, keys and values");
  return c10::Join(" and ", causes);
}

/// Prints one line per layer, then how close the predictions are.
void print_verification(const ConversionReport& report, const DecoderConfig& original) {
  std::cout << "layer  K/V heads  score error  output error  groups\n";
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const auto& layer = report.layers[i];
    std::cout << std::setw(5) << i << std::setw(11) << layer.groups.size() << std::setw(11)
              << fixed(100 * layer.error->scores, 1) << " %" << std::setw(12)
              << fixed(100 * layer.error->outputs, 1) << " %  " << groups_text(layer.groups)
              << "\n";
  }
  std::cout << "on held-out calibration text: loss " << fixed(report.likeness->reference_loss, 4)
            << " -> " << fixed(report.likeness->loss, 4) << ", KL " << fixed(report.likeness->kl, 4)
            << ", agreement " << fixed(100 * report.likeness->agreement, 1) << " %\n";
  if (const auto cause = approximation(original); !cause.empty()) {
    std::cout << "pooling is approximate: " << cause
              << " follows the projections, so that heads are only rotated, not scaled\n";
  }
}

/// Notes when a conversion runs without text that would improve it.
void note_missing_text(const ConversionPlan& plan) {
  if (plan.calibration.empty() && plan.gains_from_text()) {
    note(c10::str("no --calibration is given: ", plan.method,
                  " uses the weights alone, as if all inputs were equally likely"));
  }
}

}  // namespace

ExitCode run_convert(const std::vector<std::string>& arguments) {
  std::filesystem::path from, to;
  ConversionPlan plan;
  int64_t seed = 0;
  bool force = false;
  std::optional<std::filesystem::path> json_file;
  CommandLine line({.verb = "convert",
                    .usage = "--from MODEL --to DIR (--kv-heads N | --kv-budget SHARE) [options]",
                    .summary = "Pools the K/V heads of a checkpoint; trains nothing.",
                    .example = "regroup convert --from llama-2-7b --to llama-2-7b-gqa8 "
                               "--kv-heads 8 \\\n    --method pca --calibration data.h5 "
                               "--refit output --verify"});
  line.add("from", &from, "the original").shown_as("MODEL").required();
  line.add("to", &to, "folder to write").shown_as("DIR").required();
  line.add("kv-heads", &plan.n_kv_head, "K/V heads to keep, one number or one a layer",
           at_least(1));
  line.add("kv-budget", &plan.kv_budget,
           "share of the K/V bytes to keep, instead of --kv-heads; the heads of each layer are "
           "chosen",
           between(0, 1))
      .shown_as("SHARE");
  line.add("method", &plan.method, "how heads are pooled", conversion_method_names());
  line.add("grouping", &plan.grouping, "which heads are pooled", groupings());
  line.add("calibration", &plan.calibration, "token file for calibration; its /train is read")
      .shown_as("FILE.h5");
  line.add_flag("allow-other-tokenizer", &plan.allow_other_tokenizer, kAllowOtherTokenizer);
  line.add("calibration-tokens", &plan.calibration_tokens, "calibration tokens (default: 32768)",
           at_least(1));
  line.add("refit", &plan.refit, "what is re-fitted after pooling", refit_kinds());
  line.add_flag("verify", &plan.verify, "compare each layer and the whole model with the original");
  line.add("seed", &seed, "seed of method random", at_least(0));
  line.add_force(&force);
  line.add_json(&json_file);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  plan.seed = static_cast<uint64_t>(seed);
  check_output_folder(to, force, {from, plan.calibration});
  const double start = steady_seconds();
  const auto source = ModelFolder::open(from);
  const Conversion conversion(source, plan);
  note_missing_text(plan);
  AtomicFolder folder(to);
  World alone;
  const auto report = conversion.write(folder.path(), alone);
  force ? folder.commit_replacing() : folder.commit();
  const auto converted = ModelFolder::open(to);
  auto json = account(source, converted, report);
  json["seconds"] = steady_seconds() - start;
  json["peak_rss_bytes"] = peak_resident_bytes();
  if (plan.verify) print_verification(report, source.config());
  std::cout << "K/V heads " << kv_heads_text(source.config().n_kv_head()) << " -> "
            << kv_heads_text(converted.config().n_kv_head()) << " by " << plan.method
            << ", K/V bytes a token (" << dtype_info(source.dtype()).short_name << ") "
            << json["kv_bytes_per_token"]["before"] << " -> " << json["kv_bytes_per_token"]["after"]
            << ": " << to.string() << "\n";
  if (json_file) write_results_file(*json_file, json);
  return ExitCode::kDone;
}

}  // namespace regroup
