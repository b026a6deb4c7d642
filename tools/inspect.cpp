#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>

#include "framework/data/token_data.h"
#include "framework/error.h"
#include "framework/human.h"
#include "tools/command_line.h"
#include "tools/verbs.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// What was found, for people and for programs.
struct Finding {
  std::string kind;                                        // "token data"
  std::vector<std::pair<std::string, std::string>> lines;  // a name and a sentence each
  Json json;                                               // the same, without the kind
};

std::string counted(int64_t n, const std::string& singular) {
  return human_count(static_cast<double>(n)) + " " + singular + (n == 1 ? "" : "s");
}

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

Finding token_data_finding(const fs::path& path) {
  const TokenData data = TokenData::open(path);
  Finding finding;
  finding.kind = "token data";
  const bool has_tokenizer = !data.tokenizer().empty();
  finding.lines = {{"vocabulary", c10::str(data.vocab_size(), " ids, eos id ", data.eos_id())},
                   {"tokenizer", has_tokenizer ? "included" : "unknown"},
                   {"source", data.source().empty() ? "unknown" : data.source()}};
  finding.json = {{"vocab_size", data.vocab_size()}, {"eos_id", data.eos_id()},
                  {"has_tokenizer", has_tokenizer},  {"source", data.source()},
                  {"splits", Json::object()},        {"choices", nullptr}};
  for (const TokenSplit& split : data.splits()) add_split(split, &finding);
  if (data.has_choices()) add_choices(path, &finding);
  return finding;
}

Finding inspect(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    throw Error(path.string(), "no such file or folder", "Check the path.");
  }
  if (!fs::is_directory(path, ignored) && is_hdf5(path)) return token_data_finding(path);
  throw Error(path.string(), "is nothing that Regroup knows",
              "It knows token data (HDF5 files of tools/prepare_data.py).");
}

void print_lines(const fs::path& path, const Finding& finding) {
  size_t widest = 0;
  for (const auto& line : finding.lines) widest = std::max(widest, line.first.size());
  std::cout << finding.kind << ": " << path.string() << "\n";
  for (auto [name, sentence] : finding.lines) {
    name.resize(widest, ' ');
    std::cout << "  " << name << "  " << sentence << "\n";
  }
}

void print_json(const fs::path& path, const Finding& finding) {
  Json json = {{"path", path.string()}, {"kind", finding.kind}};
  json.update(finding.json);
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace

ExitCode run_inspect(const std::vector<std::string>& arguments) {
  fs::path path;
  bool as_json = false;
  CommandLine line({.verb = "inspect",
                    .usage = "PATH [--json]",
                    .summary = "Says what a file or folder is: token data.",
                    .example = "regroup inspect data/python.h5"});
  line.add_positional("PATH", &path, "file or folder").required();
  line.add_flag("json", &as_json, "prints JSON, for programs");
  if (!line.parse(arguments)) return ExitCode::kDone;
  const Finding finding = inspect(path);
  if (as_json) {
    print_json(path, finding);
  } else {
    print_lines(path, finding);
  }
  return ExitCode::kDone;
}

}  // namespace regroup
