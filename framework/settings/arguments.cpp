#include "framework/settings/arguments.h"

#include <boost/program_options.hpp>

#include "framework/text/human.h"
#include "framework/text/nearest_name.h"

namespace regroup {
namespace {

namespace po = boost::program_options;

po::options_description described(const std::vector<const Setting*>& known) {
  po::options_description description;
  for (const Setting* setting : known) {
    po::typed_value<std::string>* semantic = po::value<std::string>();
    if (setting->takes != Setting::Takes::kValue) semantic->implicit_value(setting->implied);
    description.add_options()(setting->name.c_str(), semantic);
  }
  return description;
}

/// An option with the words up to the next option, or the words before the first option. Each is
/// parsed separately, so that one mistake does not hide the next.
std::vector<std::vector<std::string>> split_at_options(const std::vector<std::string>& arguments) {
  std::vector<std::vector<std::string>> pieces;
  bool options_ended = false;
  for (const std::string& word : arguments) {
    const bool starts_option = !options_ended && word.starts_with("--");
    if (pieces.empty() || starts_option) pieces.emplace_back();
    pieces.back().push_back(word);
    options_ended = options_ended || word == "--";
  }
  return pieces;
}

std::string option_name(const std::string& word) {
  return word.starts_with("--") ? word.substr(2, word.find('=') - 2) : "";
}

/// `--name ''`: an option that needs a value, followed by an empty word.
bool takes_empty_word(const Setting& setting, const std::vector<std::string>& piece) {
  return setting.takes == Setting::Takes::kValue && piece[0] == "--" + setting.name &&
         piece.size() > 1 && piece[1].empty();
}

const Setting* find(const std::vector<const Setting*>& known, const std::string& name) {
  for (const Setting* setting : known) {
    if (setting->name == name) return setting;
  }
  return nullptr;
}

std::string unknown_option(const std::string& name, const std::vector<const Setting*>& known) {
  std::vector<std::string> names;
  for (const Setting* setting : known) names.push_back("--" + setting->name);
  return "--" + abbreviated(name) + ": unknown option" + did_you_mean("--" + name, names);
}

/// Parses one such piece with Boost.
void tokenize(const std::vector<std::string>& piece, const po::options_description& description,
              const std::string& implied, Arguments* result) {
  namespace style = po::command_line_style;
  constexpr int kLongOptionsOnly =
      style::allow_long | style::long_allow_adjacent | style::long_allow_next;
  po::command_line_parser parser(piece);
  const auto parsed = parser.options(description).style(kLongOptionsOnly).run();
  for (const po::option& option : parsed.options) {
    const std::string value = option.value.empty() ? implied : option.value[0];
    if (option.position_key >= 0) {
      result->positional.push_back(value);
    } else {
      result->options.push_back({option.string_key, value});
    }
  }
}

}  // namespace

Arguments parse_arguments(const std::vector<std::string>& arguments,
                          const std::vector<const Setting*>& known, Complaints* complaints) {
  const po::options_description description = described(known);
  Arguments result;
  const auto keep_words = [&result](const std::vector<std::string>& piece) {
    result.positional.insert(result.positional.end(), piece.begin() + 1, piece.end());
  };
  for (const std::vector<std::string>& piece : split_at_options(arguments)) {
    const std::string name = option_name(piece[0]);
    const Setting* setting = find(known, name);
    const bool has_value = piece[0].find('=') != std::string::npos;
    if (!name.empty() && !setting) {
      complaints->add(unknown_option(name, known));
      keep_words(piece);
    } else if (setting && setting->takes == Setting::Takes::kNothing && has_value) {
      complaints->add("--" + name + ": takes no value");
    } else if (setting && piece[0] == "--" + name + "=") {  // Boost refuses an empty value
      result.options.push_back({name, ""});
      keep_words(piece);
    } else if (setting && takes_empty_word(*setting, piece)) {
      result.options.push_back({name, ""});
      keep_words({piece.begin() + 1, piece.end()});
    } else {
      try {
        tokenize(piece, description, setting ? setting->implied : "", &result);
      } catch (const po::error&) {
        const std::string wanted = setting ? " (" + setting->value_name + ")" : "";
        complaints->add(abbreviated(piece[0]) + ": needs a value" + wanted);
      }
    }
  }
  return result;
}

}  // namespace regroup
