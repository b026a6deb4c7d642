#include "framework/settings/config.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>
#include <system_error>

#include <boost/program_options.hpp>

#include "framework/text/human.h"
#include "framework/text/nearest_name.h"

namespace regroup {
namespace {

namespace po = boost::program_options;

std::string read_config_text(const std::filesystem::path& file) {
  constexpr size_t kLargestConfig = 1 << 20;
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) {
    throw request_error(file.string(), "is a folder, not a config file", "Name an INI file.");
  }
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    const bool exists = std::filesystem::exists(file, ignored);
    throw request_error(file.string(), exists ? "cannot be read" : "no such config file",
                        "Check the path and its permissions.");
  }
  std::string text(kLargestConfig + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kLargestConfig || text.find('\0') != std::string::npos) {
    throw request_error(file.string(), "is not a config file: it is binary or larger than 1 MiB",
                        "Name an INI file.");
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // Windows editors write it
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}

/// The name in a line that Boost reads as a section's, "[name]"; empty for other lines.
std::string section_line(std::string line) {
  line.resize(std::min(line.find('#'), line.size()));
  const size_t first = line.find_first_not_of(" \t\r");
  const size_t last = line.find_last_not_of(" \t\r");
  const bool is_section = first != std::string::npos && line[first] == '[' && line[last] == ']';
  return is_section ? line.substr(first, last - first + 1) : "";
}

/// False for a value that an INI file cannot hold: Boost ends a value at '#' and at the line's end.
bool fits_in_ini(const std::string& value) {
  return value.find_first_of("#\n\r") == std::string::npos;
}

std::vector<std::string> names_of(const std::vector<Setting>& settings) {
  std::vector<std::string> names;
  for (const Setting& known : settings) names.push_back(known.name);
  return names;
}

std::string key_of(const std::string& name) { return name.substr(name.find('.') + 1); }

}  // namespace

void ConfigSchema::add_rule(std::vector<std::string> keys, std::function<std::string()> problem) {
  rules_.push_back({std::move(keys), std::move(problem)});
}

void ConfigSchema::parse_file(const std::filesystem::path& file) {
  std::istringstream lines(read_config_text(file));
  std::string section;
  int64_t line_number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++line_number;
    const std::string opened = section_line(line);
    if (!opened.empty()) section = opened;
    if (opened.empty())
      parse_line(section, line, file.string() + ":" + std::to_string(line_number));
  }
}

void ConfigSchema::parse_line(const std::string& section, const std::string& line,
                              const std::string& origin) {
  std::istringstream text(section + "\n" + line);
  const po::options_description anything;
  try {
    const auto parsed = po::parse_config_file(text, anything, /*allow_unregistered=*/true);
    for (const po::option& option : parsed.options) {
      const auto earlier = origins_.find(option.string_key);
      if (earlier != origins_.end()) {
        complaints_.add(origin + ": " + option.string_key + " is given twice, first at " +
                        earlier->second);
        continue;
      }
      const std::string& value = option.value.at(0);
      const std::string written = origin + ": " + option.string_key + " = " + abbreviated(value);
      assign(option.string_key, value, origin, written);
    }
  } catch (const po::error&) {
    complaints_.add(origin + ": expected `key = value`, `[section]` or `# comment`");
  }
}

void ConfigSchema::override_key(const std::string& name, const std::string& value) {
  assign(name, value, "--" + name, "--" + name + "=" + abbreviated(value));
}

void ConfigSchema::assign(const std::string& name, const std::string& value,
                          const std::string& origin, const std::string& written) {
  origins_[name] = origin;
  refused_.erase(name);
  const Setting* key = find_setting(settings_, name);
  if (!key) {
    complaints_.add(origin + ": unknown key " + abbreviated(name) +
                    did_you_mean(name, names_of(settings_)));
    return;
  }
  auto problem = key->assign(value);
  if (!problem && !fits_in_ini(key->print())) problem = "a config cannot hold '#' or line ends";
  if (!problem) return;
  complaints_.add(written + ": " + *problem);
  refused_.insert(name);
}

bool ConfigSchema::any_refused(const std::vector<std::string>& keys) const {
  return std::any_of(keys.begin(), keys.end(), [this](auto& key) { return refused_.count(key); });
}

std::string ConfigSchema::origin_of(const std::vector<std::string>& keys) const {
  for (const std::string& key : keys) {
    const auto origin = origins_.find(key);
    if (origin != origins_.end()) return origin->second + ": ";
  }
  return "";
}

void ConfigSchema::finish(const std::string& where, const std::string& what_to_do) {
  for (const Rule& rule : rules_) {
    const std::string problem = any_refused(rule.keys) ? "" : rule.problem();
    if (!problem.empty()) complaints_.add(origin_of(rule.keys) + problem);
  }
  complaints_.throw_if_any(where, what_to_do, ExitCode::kBadRequest);
}

std::string ConfigSchema::describe() const {
  size_t widest = 0;
  for (const Setting& key : settings_) {
    widest = std::max(widest, key_of(key.name).size() + key.print().size());
  }
  std::string text;
  std::string section;
  for (const Setting& key : settings_) {
    if (section_of(key.name) != section) {
      section = section_of(key.name);
      text += "  [" + section + "]\n";
    }
    std::string entry = "    " + key_of(key.name) + " = " + key.print();
    entry.resize(widest + 9, ' ');
    const bool is_choice = key.value_name.find('|') != std::string::npos;
    text += entry + key.help + (is_choice ? " (" + key.value_name + ")" : "") + "\n";
  }
  return text;
}

std::string ConfigSchema::to_ini(const std::function<bool(const std::string&)>& counts) const {
  std::string text;
  std::string section;
  for (const Setting& key : settings_) {
    if (counts && !counts(key.name)) continue;
    if (section_of(key.name) != section) {
      text += (section.empty() ? "[" : "\n[") + section_of(key.name) + "]\n";
      section = section_of(key.name);
    }
    const std::string value = key.print();
    text += key_of(key.name) + " =" + (value.empty() ? "" : " " + value) + "\n";
  }
  return text;
}

std::map<std::string, std::string> ConfigSchema::values() const {
  std::map<std::string, std::string> values;
  for (const Setting& key : settings_) values[key.name] = key.print();
  return values;
}

std::string section_of(const std::string& name) { return name.substr(0, name.find('.')); }

}  // namespace regroup
