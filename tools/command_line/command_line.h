// tools/command_line/command_line.h: the options of one verb, declared once: parsing and --help.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "framework/settings/config.h"
#include "framework/settings/settings.h"

namespace regroup {

/// The text of --help besides the options.
struct VerbHelp {
  std::string verb;     // "convert"
  std::string usage;    // what follows the verb: "--from MODEL --to DIR [options]"
  std::string summary;  // a sentence
  std::string example;  // a whole command, or several lines of them
};

constexpr const char* kAllowOtherTokenizer =
    "accept token data made with another tokenizer than the model's";

class CommandLine {
 public:
  explicit CommandLine(VerbHelp help) : help_(std::move(help)) {}

  /// An option, by any overload of setting() in framework/settings/settings.h.
  template <class... Rest>
  Setting& add(std::string name, Rest&&... rest) {
    return options_.emplace_back(setting(std::move(name), std::forward<Rest>(rest)...));
  }
  Setting& add_flag(std::string name, bool* target, std::string help) {
    return options_.emplace_back(flag(std::move(name), target, std::move(help)));
  }
  /// A positional argument; order of declaration is the order on the command line.
  template <class... Rest>
  Setting& add_positional(std::string name, Rest&&... rest) {
    return positional_.emplace_back(setting(std::move(name), std::forward<Rest>(rest)...));
  }
  /// --config FILE, and --section.key=value for every key of the schema, which must outlive this.
  Setting& add_config(ConfigSchema* schema);

  // Options that several verbs share.
  void add_json(std::optional<std::filesystem::path>* file);
  void add_quiet();
  void add_force(bool* force);

  /// Fills every target: defaults, then the config file, then the command line. Returns false after
  /// printing --help. Throws one request Error that lists every mistake, or that --json FILE cannot
  /// be written.
  bool parse(const std::vector<std::string>& arguments);
  /// True, after parse, if the option was given.
  bool given(const std::string& name) const;

  std::string help_text() const;

 private:
  void assign(const Setting& setting, const std::string& value, Complaints* complaints);
  void assign_positional(const std::vector<std::string>& words, Complaints* complaints);
  void complain_about_missing(Complaints* complaints) const;

  VerbHelp help_;
  std::vector<Setting> options_;
  std::vector<Setting> positional_;
  ConfigSchema* schema_ = nullptr;
  std::optional<std::filesystem::path> config_file_;
  std::optional<std::filesystem::path>* json_file_ = nullptr;
  bool quiet_ = false;
  std::vector<std::string> given_;
};

}  // namespace regroup
