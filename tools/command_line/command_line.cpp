#include "tools/command_line/command_line.h"

#include <algorithm>
#include <iostream>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/progress/console.h"
#include "framework/settings/arguments.h"
#include "framework/text/human.h"

namespace regroup {
namespace {

bool asks_for_help(const std::vector<std::string>& arguments) {
  const auto options_end = std::find(arguments.begin(), arguments.end(), "--");
  return std::any_of(arguments.begin(), options_end,
                     [](const std::string& word) { return word == "--help" || word == "-h"; });
}

std::string left_column(const Setting& option) {
  const std::string dashed = "--" + option.name;
  switch (option.takes) {
    case Setting::Takes::kNothing:
      return dashed;
    case Setting::Takes::kOptionalValue:
      return dashed + "[=" + option.value_name + "]";
    case Setting::Takes::kValue:
      break;
  }
  return dashed + " " + option.value_name;
}

std::string right_column(const Setting& option) {
  const std::string present = option.print();
  std::string text = option.help;
  if (option.repeatable) text += "; may be repeated";
  if (option.is_required) return text + " (required)";
  if (option.takes != Setting::Takes::kNothing && !present.empty()) text += " (" + present + ")";
  return text;
}

std::string indented(const std::string& lines) {
  std::string text = "  ";
  for (const char c : lines) text += c == '\n' ? "\n  " : std::string(1, c);
  return text + "\n";
}

}  // namespace

Setting& CommandLine::add_config(ConfigSchema* schema) {
  schema_ = schema;
  return add("config", &config_file_, "INI file with the keys listed below").shown_as("FILE");
}

void CommandLine::add_json(std::optional<std::filesystem::path>* file) {
  json_file_ = file;
  add("json", file, "also write the results as JSON").shown_as("FILE");
}

void CommandLine::add_quiet() { add_flag("quiet", &quiet_, "no progress on stderr"); }

void CommandLine::add_force(bool* force) {
  add_flag("force", force, "replace an output that Regroup wrote, once the new one is complete");
}

bool CommandLine::parse(const std::vector<std::string>& arguments) {
  if (asks_for_help(arguments)) {
    std::cout << help_text();
    return false;
  }
  Complaints own;
  Complaints& complaints = schema_ ? schema_->complaints() : own;
  std::vector<const Setting*> known;
  for (const Setting& option : options_) known.push_back(&option);
  if (schema_) {
    for (const Setting& key : schema_->settings()) known.push_back(&key);
  }
  const Arguments parsed = parse_arguments(arguments, known, &complaints);
  for (const auto& [name, value] : parsed.options) {
    const Setting* option = find_setting(options_, name);
    if (option) assign(*option, value, &complaints);
  }
  assign_positional(parsed.positional, &complaints);
  complain_about_missing(&complaints);
  if (schema_ && config_file_) schema_->parse_file(*config_file_);
  for (const auto& [name, value] : parsed.options) {
    if (!find_setting(options_, name)) schema_->override_key(name, value);
  }
  const std::string what_to_do = "See `regroup " + help_.verb + " --help`.";
  if (schema_) schema_->finish(help_.verb, what_to_do);
  complaints.throw_if_any(help_.verb, what_to_do, ExitCode::kBadRequest);
  if (json_file_ && *json_file_) require_results_file(**json_file_);
  if (quiet_) console().set_verbosity(Verbosity::kWarnings);
  return true;
}

bool CommandLine::given(const std::string& name) const {
  return std::find(given_.begin(), given_.end(), name) != given_.end();
}

void CommandLine::assign(const Setting& option, const std::string& value, Complaints* complaints) {
  given_.push_back(option.name);
  const bool is_empty = value.find_first_not_of(" \t\r\n") == std::string::npos;
  if (is_empty && !option.accepts_empty && option.takes != Setting::Takes::kNothing) {
    complaints->add("--" + option.name + ": expected " + option.value_name + ", found nothing");
    return;
  }
  const auto problem = option.assign(value);
  if (problem) complaints->add("--" + option.name + "=" + abbreviated(value) + ": " + *problem);
}

void CommandLine::assign_positional(const std::vector<std::string>& words, Complaints* complaints) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (i >= positional_.size()) {
      const bool may_belong_to_a_misspelled_option = !complaints->empty();
      if (!may_belong_to_a_misspelled_option)
        complaints->add(abbreviated(words[i]) + ": unexpected word");
      return;
    }
    given_.push_back(positional_[i].name);
    if (words[i].empty()) {
      complaints->add(positional_[i].name + ": expected " + positional_[i].help +
                      ", found nothing");
      continue;
    }
    const auto problem = positional_[i].assign(words[i]);
    if (problem) complaints->add(abbreviated(words[i]) + ": " + *problem);
  }
}

void CommandLine::complain_about_missing(Complaints* complaints) const {
  for (const Setting& option : options_) {
    if (option.is_required && !given(option.name)) {
      complaints->add("--" + option.name + " " + option.value_name + " is missing");
    }
  }
  for (const Setting& word : positional_) {
    const bool is_missing = word.is_required && !given(word.name) && !given(word.replacement);
    if (is_missing) complaints->add(word.name + " is missing");
  }
}

std::string CommandLine::help_text() const {
  std::string text = "regroup " + help_.verb + " " + help_.usage + "\n\n" + help_.summary + "\n\n";
  size_t widest = 0;
  for (const Setting& option : options_) widest = std::max(widest, left_column(option).size());
  for (const Setting& word : positional_) widest = std::max(widest, word.name.size());
  const auto row = [&](std::string left, const std::string& right) {
    left.resize(widest, ' ');
    text += "  " + left + "  " + right + "\n";
  };
  for (const Setting& word : positional_) row(word.name, word.help);
  for (const Setting& option : options_) row(left_column(option), right_column(option));
  if (schema_) {
    text += "\nConfig keys; --section.key=value on the command line overrides the file:\n" +
            schema_->describe();
  }
  return text + "\nExample:\n" + indented(help_.example);
}

}  // namespace regroup
