#include <algorithm>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/data/token_data.h"
#include "framework/errors/error.h"
#include "framework/files/hdf5_file.h"
#include "framework/files/json.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/families/family.h"
#include "models/model_folder.h"
#include "models/run_layout.h"
#include "tools/command_line/command_line.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// The result, for people and for programs.
struct Finding {
  std::string kind;                                        // "token data"
  std::vector<std::pair<std::string, std::string>> lines;  // label and text
  Json json;  // the same facts for programs, without the kind
};

std::string counted(int64_t n, const std::string& singular) {
  return human_count(static_cast<double>(n)) + " " + singular + (n == 1 ? "" : "s");
}

// Token data

bool is_hdf5(const fs::path& file) {
  constexpr char kSignature[] = "\x89HDF\r\n\x1a\n";
  std::string start(sizeof kSignature - 1, '\0');
  std::ifstream(file, std::ios::binary).read(start.data(), static_cast<int64_t>(start.size()));
  return start == kSignature;
}

void add_split(const TokenSplit& split, Finding* finding) {
  const auto bytes = split.bytes();
  std::string sentence =
      counted(split.n_documents(), "document") + ", " + counted(split.n_tokens(), "token");
  if (bytes) sentence += ", " + human_bytes(static_cast<double>(*bytes)) + " of text";
  finding->lines.emplace_back(split.name(), sentence);
  finding->json["splits"][split.name()] = {{"documents", split.n_documents()},
                                           {"tokens", split.n_tokens()},
                                           {"bytes", bytes ? Json(*bytes) : Json()}};
}

void add_choices(const fs::path& path, Finding* finding) {
  const Choices choices = Choices::open(path);
  finding->lines.emplace_back("choices", counted(choices.size(), "question") + " with " +
                                             counted(choices.n_options(), "option") + " each");
  finding->json["choices"] = {{"questions", choices.size()}, {"options", choices.n_options()}};
}

/// "special tokens parse, BOS auto", in the words of tools/prepare_data.py's options.
std::string documents_sentence(const TokenData& data) {
  if (data.special_tokens().empty() && data.bos().empty()) return "unknown";
  return "special tokens " + data.special_tokens() + ", BOS " + data.bos();
}

Finding token_data_finding(const fs::path& path) {
  const TokenData data = TokenData::open(path);
  Finding finding;
  finding.kind = "token data";
  const bool has_tokenizer = !data.tokenizer().empty();
  finding.lines = {{"vocabulary", c10::str(data.vocab_size(), " ids, eos id ", data.eos_id())},
                   {"tokenizer", has_tokenizer ? "included" : "unknown"},
                   {"documents", documents_sentence(data)},
                   {"source", data.source().empty() ? "unknown" : data.source()}};
  finding.json = {{"vocab_size", data.vocab_size()},
                  {"eos_id", data.eos_id()},
                  {"has_tokenizer", has_tokenizer},
                  {"source", data.source()},
                  {"special_tokens", data.special_tokens()},
                  {"bos", data.bos()},
                  {"splits", Json::object()},
                  {"choices", nullptr}};
  for (const TokenSplit& split : data.splits()) add_split(split, &finding);
  if (data.has_choices()) add_choices(path, &finding);
  return finding;
}

// Other HDF5 files that Regroup writes

Finding scores_finding(const Hdf5File& file) {
  const auto log_probabilities = file.read("/logprob");
  const int64_t tokens = log_probabilities.numel();
  const int64_t documents = file.dataset("/offsets").shape().at(0) - 1;
  return {"scores",
          {{"documents", counted(documents, "document") + ", " + counted(tokens, "token")},
           {"log-probability", fixed(log_probabilities.sum(at::kDouble).item<double>(), 4) +
                                   " in all, 0 for a document's first token"}},
          {{"documents", documents}, {"tokens", tokens}}};
}

Finding training_state_finding(const fs::path& path, const Hdf5File& file) {
  const auto step = file.integer_attribute("/", "step");
  return {"training state",
          {{"step", step ? c10::str(*step) : "unknown"},
           {"of", fs::absolute(path).parent_path().string() + ", a checkpoint; inspect that"}},
          {{"step", step ? Json(*step) : Json()}}};
}

// Models and checkpoints

bool is_checkpoint(const fs::path& folder) {
  if (!fs::is_directory(folder)) return false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_training_state(entry.path().filename().string())) return true;
  }
  return false;
}

/// "8 in every layer (MHA)" or "8,4,4,1".
std::string kv_heads_sentence(const DecoderConfig& config) {
  const std::string heads = kv_heads_text(config.n_kv_head());
  if (!config.uniform_kv_heads()) return heads + ", one number a layer";
  return heads + " (" + attention_kind(config) + ")";
}

/// True if config.json records how Regroup made the model.
bool is_known(const Provenance& made) {
  return made.original || made.pretrain_steps || made.tokens_seen > 0;
}

std::string history(const Provenance& made) {
  std::string text;
  if (made.original) {
    text = "converted from " + made.original->name + " (" +
           kv_heads_text(made.original->n_kv_head) + " K/V heads) by " + made.conversion.method;
  }
  const auto add = [&text](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (made.pretrain_steps) add(counted(*made.pretrain_steps, "step") + " of pretraining");
  if (made.uptrain_steps > 0) add(counted(made.uptrain_steps, "step") + " of uptraining");
  if (made.tokens_seen > 0) add(counted(made.tokens_seen, "token") + " seen");
  return text.empty() ? "unknown" : text;
}

Finding model_finding(const fs::path& path) {
  const ModelFolder model = ModelFolder::open(path);
  const DecoderConfig& config = model.config();
  const LayerConfig& first = config.layer(0);
  const std::string dtype(dtype_info(model.dtype()).short_name);
  const int64_t kv_bytes =
      config.kv_bytes_per_token(static_cast<int64_t>(c10::elementSize(model.dtype())));
  Finding finding;
  finding.kind = is_checkpoint(path) ? "checkpoint" : "model";
  finding.lines = {
      {"family", model.family().name},
      {"parameters", human_count(static_cast<double>(n_parameters(config))) + " in " + dtype +
                         ", " + human_bytes(static_cast<double>(model.bytes()))},
      {"shape",
       c10::str(config.n_layer(), " layers, d_model ", config.d_model, ", d_ff ", first.mlp.d_ff,
                ", vocabulary ", config.vocab_size, ", up to ", config.max_seq_len, " positions")},
      {"query heads", c10::str(first.attention.n_head, " of head_dim ", first.attention.head_dim)},
      {"K/V heads", kv_heads_sentence(config)},
      {"tied", config.head.tied ? "yes: the output head is the embedding" : "no"},
      {"K/V cache", human_bytes(static_cast<double>(kv_bytes)) + " a token in " + dtype},
      {"history", history(model.provenance())}};
  finding.json = {
      {"family", model.family().name},
      {"parameters", n_parameters(config)},
      {"dtype", dtype},
      {"bytes", model.bytes()},
      {"n_layer", config.n_layer()},
      {"d_model", config.d_model},
      {"d_ff", first.mlp.d_ff},
      {"vocab_size", config.vocab_size},
      {"max_seq_len", config.max_seq_len},
      {"n_head", first.attention.n_head},
      {"head_dim", first.attention.head_dim},
      {"n_kv_head", config.n_kv_head()},
      {"tie_embeddings", config.head.tied},
      {"kv_bytes_per_token", kv_bytes},
      {"regroup", is_known(model.provenance()) ? model.provenance().to_json(config) : Json()}};
  return finding;
}

Finding hdf5_finding(const fs::path& path) {
  const auto file = Hdf5File::open(path);
  if (file.exists("/logprob")) return scores_finding(file);
  if (file.string_attribute("/", "identity")) return training_state_finding(path, file);
  if (file.string_attribute("/", kConfigJson)) return model_finding(path);
  return token_data_finding(path);
}

// Runs

/// Oldest first.
std::vector<std::string> checkpoint_names(const fs::path& run) {
  std::vector<std::string> names;
  for (const auto& checkpoint : checkpoints_of(run))
    names.push_back(checkpoint.filename().string());
  std::reverse(names.begin(), names.end());
  return names;
}

/// The last complete metrics line with this field; null if there is none.
Json last_metrics_with(const fs::path& run, const std::string& field) {
  Json last;
  std::ifstream lines(run / kMetrics);
  for (std::string line; std::getline(lines, line);) {
    const Json record = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (record.is_object() && record.contains(field) && record.contains("step")) last = record;
  }
  return last;
}

std::string metrics_sentence(const Json& record, const std::string& field) {
  if (record.is_null()) return "none yet";
  const Json& value = record[field];
  return (value.is_number() ? fixed(value.get<double>(), 4) : value.dump()) + " at step " +
         record["step"].dump();
}

Finding run_finding(const fs::path& path) {
  const auto checkpoints = checkpoint_names(path);
  const Json loss = last_metrics_with(path, "loss");
  const Json val_loss = last_metrics_with(path, "val_loss");
  const bool finished = fs::exists(path / kFinal);
  Finding finding;
  finding.kind = "run";
  finding.lines = {{"finished", finished ? "yes" : "no"},
                   {"training loss", metrics_sentence(loss, "loss")},
                   {"validation loss", metrics_sentence(val_loss, "val_loss")},
                   {"checkpoints", checkpoints.empty() ? "none yet" : c10::Join(", ", checkpoints)},
                   {"evaluation", fs::exists(path / kEvaluation) ? kEvaluation : "none yet"}};
  finding.json = {{"finished", finished},
                  {"last_metrics", loss},
                  {"last_validation", val_loss},
                  {"checkpoints", checkpoints},
                  {"model", nullptr}};
  const bool has_model = finished || !checkpoints.empty();
  if (!has_model) return finding;
  const Finding model = model_finding(finished ? path / "final" : path);
  finding.lines.insert(finding.lines.end(), model.lines.begin(), model.lines.end());
  finding.json["model"] = model.json;
  return finding;
}

bool is_gguf(const fs::path& file) {
  char magic[4] = {};
  std::ifstream(file, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF";
}

Finding inspect(const fs::path& path) {
  std::error_code ignored;
  const bool is_folder = fs::is_directory(path, ignored);
  if (!fs::exists(path, ignored)) {
    throw Error(path.string(), "no such file or folder", "Check the path.");
  }
  if (is_folder && fs::exists(path / kConfigJson)) return model_finding(path);
  if (is_folder && is_run(path)) return run_finding(path);
  if (!is_folder && is_hdf5(path)) return hdf5_finding(path);
  if (!is_folder && is_gguf(path)) {
    throw Error(
        path.string(), "is a GGUF file, which Regroup does not read",
        c10::str("Make a model folder of it: tools/import_gguf.py ", path.string(), " --to DIR."));
  }
  throw Error(
      path.string(), "is not a file type that Regroup recognises",
      "Regroup recognises model folders in Hugging Face layout, checkpoints, runs, and token data "
      "(HDF5 files of tools/prepare_data.py).");
}

void print_lines(const fs::path& path, const Finding& finding) {
  size_t widest = 0;
  for (const auto& line : finding.lines) widest = std::max(widest, line.first.size());
  std::cout << finding.kind << ": " << printable(path.string()) << "\n";
  for (auto [name, sentence] : finding.lines) {
    name.resize(widest, ' ');
    std::cout << "  " << name << "  " << printable(sentence) << "\n";
  }
}

void print_json(const fs::path& path, const Finding& finding) {
  Json json = {{"path", path.string()}, {"kind", finding.kind}};
  json.update(finding.json);
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

// Families

Json families_json() {
  auto list = Json::array();
  for (const auto& family : families()) {
    list.push_back({{"model_type", family.model_type},
                    {"class", family.architecture},
                    {"has_kv_head_field", has_kv_head_field(family)},
                    {"covers", family.covers}});
  }
  return list;
}

void print_families() {
  const auto row = [](const std::string& type, const std::string& name, const std::string& covers) {
    std::cout << std::left << std::setw(12) << type << std::setw(25) << name << covers << "\n";
  };
  row("model_type", "class in transformers", "covers");
  for (const auto& family : families()) {
    row(family.model_type, family.architecture + (has_kv_head_field(family) ? "" : " *"),
        family.covers);
  }
  std::cout << "\n* has no field for K/V heads: export --layout grouped writes it with its own "
            << regroup_family().code.file << "\n";
}

}  // namespace

ExitCode run_inspect(const std::vector<std::string>& arguments) {
  fs::path path;
  bool as_json = false, lists_families = false;
  CommandLine line({.verb = "inspect",
                    .usage = "(PATH or --families) [--json]",
                    .summary = "Says what a file or folder is: model, checkpoint, run, token data.",
                    .example = "regroup inspect runs/uptrain-gqa2"});
  line.add_positional("PATH", &path, "file or folder").required_unless("families");
  line.add_flag("families", &lists_families, "lists the supported architectures instead");
  line.add_flag("json", &as_json, "prints JSON, for programs");
  if (!line.parse(arguments)) return ExitCode::kDone;
  if (lists_families && line.given("PATH"))
    throw request_error("inspect", "takes a PATH or --families", "Give one of the two.");
  if (lists_families) {
    as_json ? void(std::cout << families_json().dump(2) << "\n") : print_families();
    return ExitCode::kDone;
  }
  const Finding finding = inspect(path);
  if (as_json) {
    print_json(path, finding);
  } else {
    print_lines(path, finding);
  }
  return ExitCode::kDone;
}

}  // namespace regroup
