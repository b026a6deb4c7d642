// framework/settings/config.h: the keys of a config, which are read from an INI file and the
// command line; unknown keys and bad values are errors.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "framework/errors/error.h"
#include "framework/settings/settings.h"

namespace regroup {

/// Declares "section.key" settings over the caller's variables, fills them from a file and from
/// overrides (which win), and reports every mistake in both at once:
///
///   ConfigSchema schema;
///   schema.add("optim.lr", &options.lr, "peak learning rate", above(0));
///   schema.parse_file("run.ini");
///   schema.override_key("optim.lr", "3e-4");
///   schema.finish();
class ConfigSchema {
 public:
  /// Adds a key with the arguments of any overload of setting() in framework/settings/settings.h: a
  /// name, a variable that holds the default, help, and limits or choices. The keys of a section
  /// must be added one after the other.
  template <class... Rest>
  Setting& add(std::string name, Rest&&... rest) {
    return settings_.emplace_back(setting(std::move(name), std::forward<Rest>(rest)...));
  }

  /// Adds a rule about several keys: `problem` returns what is wrong with their values, or nullopt.
  /// finish() calls it unless one of `keys` was refused.
  void add_rule(std::vector<std::string> keys, std::function<std::string()> problem);

  /// Reads `key = value` lines below `[section]` lines; `#` starts a comment.
  void parse_file(const std::filesystem::path& file);
  /// Sets one key, for `--section.key=value` on the command line.
  void override_key(const std::string& name, const std::string& value);

  /// Applies the rules. Throws one request error with every mistake since construction, if there is
  /// any. where, what_to_do: of that error.
  void finish(const std::string& where = "config",
              const std::string& what_to_do = "Mend the config and start again.");
  /// The mistakes so far. The caller may add to them; finish() reports all.
  Complaints& complaints() { return complaints_; }

  const std::vector<Setting>& settings() const { return settings_; }
  /// Every key with its default, by section, for --help.
  std::string describe() const;
  /// Every key with its current value, as an INI file that parses to the same values.
  /// counts: whether a key has an effect and is printed.
  std::string to_ini(const std::function<bool(const std::string& key)>& counts = nullptr) const;
  /// The current values by name, as to_ini prints them.
  std::map<std::string, std::string> values() const;

 private:
  struct Rule {
    std::vector<std::string> keys;
    std::function<std::string()> problem;
  };

  void parse_line(const std::string& section, const std::string& line, const std::string& origin);
  void assign(const std::string& name, const std::string& value, const std::string& origin,
              const std::string& written);
  bool any_refused(const std::vector<std::string>& keys) const;
  std::string origin_of(const std::vector<std::string>& keys) const;

  std::vector<Setting> settings_;
  std::vector<Rule> rules_;
  Complaints complaints_;
  std::map<std::string, std::string> origins_;  // where each key was set
  std::set<std::string> refused_;
};

/// "section.key" of `name` up to its dot; the whole name when it has none.
std::string section_of(const std::string& name);

}  // namespace regroup
