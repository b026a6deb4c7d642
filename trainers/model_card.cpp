#include "trainers/model_card.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/card_license.h"
#include "models/run_layout.h"
#include "trainers/evaluation.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

/// YAML takes JSON's strings.
std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

/// "org/name" or "name" with the characters that the Hub allows.
std::string repository_id(std::string name) {
  const bool has_organisation = std::count(name.begin(), name.end(), '/') == 1;
  for (char& c : name) {
    const bool is_allowed = std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                            c == '.' || (c == '/' && has_organisation);
    if (!is_allowed) c = '-';
  }
  return name;
}

std::string header(const ModelFolder& source, const ExportPlan& plan, const DecoderConfig& config) {
  const auto& original = source.provenance().original;
  std::string text = "---\n";
  if (plan.format == ExportFormat::kHuggingFace) text += "library_name: transformers\n";
  text += "pipeline_tag: text-generation\n";
  if (original) text += "base_model: " + quoted(repository_id(original->name)) + "\n";
  const bool is_known = original && !original->license.empty();
  const auto license = is_known ? original->license : card_license(source.path());
  for (const auto& [key, value] : license) text += key + ": " + quoted(value) + "\n";
  auto kind = attention_kind(config);
  for (char& c : kind) c = static_cast<char>(std::tolower(c));
  return text + "tags:\n- regroup\n- " + kind + "\n---\n\n";
}

class FactTable {
 public:
  void add(const std::string& name, const std::string& value) {
    text_ += "| " + name + " | " + value + " |\n";
  }
  std::string text() const { return "| | |\n|---|---|\n" + text_; }

 private:
  std::string text_;
};

std::string conversion_sentence(const Provenance::Conversion& made) {
  auto text = made.method + ", " + made.grouping + " grouped";
  if (made.refit != "none") text += ", refit: " + made.refit;
  if (made.kv_budget) text += ", K/V budget " + fixed(100 * *made.kv_budget, 1) + " %";
  if (made.calibration_tokens > 0)
    text +=
        ", calibrated on " + human_count(static_cast<double>(made.calibration_tokens)) + " tokens";
  return text;
}

std::string uptraining_sentence(const Provenance& made) {
  auto text = c10::str(made.uptrain_steps, " steps");
  if (made.pretrain_steps.value_or(0) > 0) {
    const auto alpha =
        static_cast<double>(made.uptrain_steps) / static_cast<double>(*made.pretrain_steps);
    text += c10::str(", α = ", fixed(alpha, 4), " of the original's ", *made.pretrain_steps);
  }
  return text;
}

std::string facts(const ModelFolder& source, const ExportPlan& plan, const DecoderConfig& config) {
  const auto& made = source.provenance();
  const auto& attention = config.layer(0).attention;
  const auto dtype = plan.dtype.value_or(source.dtype());
  FactTable table;
  table.add("architecture", source.family().architecture);
  table.add("parameters", human_count(static_cast<double>(n_parameters(config))) + " in " +
                              std::string(dtype_info(dtype).short_name));
  table.add("query heads", c10::str(attention.n_head, " of head_dim ", attention.head_dim));
  const auto before =
      made.original ? ", before the conversion " + kv_heads_text(made.original->n_kv_head) : "";
  table.add("K/V heads", kv_heads_text(source.config().n_kv_head()) + before);
  const auto bytes_per_value = static_cast<int64_t>(c10::elementSize(dtype));
  table.add("K/V cache", c10::str(config.kv_bytes_per_token(bytes_per_value), " bytes a token"));
  if (made.original) table.add("conversion", conversion_sentence(made.conversion));
  if (made.uptrain_steps > 0) table.add("uptraining", uptraining_sentence(made));
  if (made.tokens_seen > 0)
    table.add("tokens seen", human_count(static_cast<double>(made.tokens_seen)));
  if (made.original && made.pretrain_flops > 0)
    table.add("compute", fixed(100 * made.uptrain_flops / made.pretrain_flops, 2) +
                             " % of the original's pretraining");
  return table.text();
}

/// The evaluation that ended the run whose final model this is.
std::optional<JsonObject> evaluation_of(const ModelFolder& source) {
  const auto folder = fs::weakly_canonical(source.path());
  const auto file = folder.parent_path() / kEvaluation;
  if (folder.filename() != kFinal || !fs::exists(file)) return std::nullopt;
  return JsonObject::from_file(file);
}

std::string evaluation_section(const JsonObject& evaluation) {
  const auto data = fs::path(evaluation.string("data")).filename().string();
  const nlohmann::ordered_json shown = {{"dtype", evaluation.string("dtype")},
                                        {"models", evaluation.raw("models")}};
  try {
    return "\n## Evaluation\n\nOn held-out text of " + data + ":\n\n```text\n" +
           evaluation_table(shown) + "```\n";
  } catch (const nlohmann::json::exception& error) {
    throw Error(evaluation.where(), c10::str("is no evaluation: ", error.what()),
                "Evaluate the run again, or remove the file.");
  }
}

std::string loading(const ModelFolder& source, const ExportPlan& plan, const DecoderConfig& config,
                    const std::string& name) {
  if (plan.format == ExportFormat::kHdf5)
    return "```sh\nregroup generate --model " + name + " --prompt 'Once'\n```\n";
  // transformers loads the config for the tokenizer too.
  const bool has_code = !deployable_form(source.family(), config).code.file.empty();
  const auto loaded =
      ".from_pretrained(" + quoted(name) + (has_code ? ", trust_remote_code=True" : "") + ")\n";
  return "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
         "tokenizer = AutoTokenizer" +
         loaded + "model = AutoModelForCausalLM" + loaded + "```\n";
}

}  // namespace

std::string model_card(const ModelFolder& source, const ExportPlan& plan, const std::string& name) {
  const auto config = exported_config(source, plan.layout);
  const auto& original = source.provenance().original;
  std::string text = header(source, plan, config) + "# " + name + "\n\n";
  const auto kind = attention_kind(source.config());
  text += (kind == "GQA" ? "A " : "An ") + kind + " language model";
  text += original ? ", converted from " + original->name + " by Regroup.\n\n"
                   : ", written by Regroup.\n\n";
  text += facts(source, plan, config);
  if (config.n_kv_head() != source.config().n_kv_head()) {
    text +=
        "\nK/V heads are repeated for its stock class, which computes the same from a K/V cache "
        "as large as that of " +
        kv_heads_text(config.n_kv_head()) + " heads.\n";
  }
  if (const auto evaluation = evaluation_of(source)) text += evaluation_section(*evaluation);
  return text + "\n## Use\n\n" + loading(source, plan, config, name);
}

}  // namespace regroup
