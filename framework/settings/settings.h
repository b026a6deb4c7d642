// framework/settings/settings.h: named, typed values that a user sets as text. Parsing is strict,
// and printing is exact.
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace regroup {

/// The values that a number may take.
struct Limits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_allowed = true;
};
Limits at_least(double min);
Limits above(double min);
Limits between(double min, double max);

/// A size in bytes, written "5GB", "512MiB" or as a plain number of bytes.
struct ByteCount {
  int64_t bytes = 0;
  bool operator==(const ByteCount&) const = default;
};

/// The names of an enum's values, in the order in which help lists them.
template <class E>
using EnumNames = std::vector<std::pair<std::string, E>>;

/// The name of a value. Throws c10::Error for a value without a name.
template <class E>
std::string name_of(const EnumNames<E>& names, E value) {
  for (const auto& [name, named] : names) {
    if (named == value) return name;
  }
  TORCH_CHECK(false, "a value of an enum without a name");
}

/// A named variable of the caller that is set from text.
struct Setting {
  enum class Takes { kValue, kOptionalValue, kNothing };

  std::string name;        // "optim.lr" in a config, "max-new-tokens" on a command line
  std::string value_name;  // the value in help: "N", "FILE", "cosine|linear"
  std::string help;
  Takes takes = Takes::kValue;
  std::string implied;  // the value of an option that is given without a value
  bool repeatable = false;
  bool is_required = false;
  std::string replacement;     // an option that stands in for a required one
  bool accepts_empty = false;  // as an option's value
  /// Sets the target. For text that it cannot parse, returns what it expected and leaves the target
  /// unchanged.
  std::function<std::optional<std::string>(const std::string& text)> assign;
  /// The target's value as text that assign() reads back exactly; empty when it has none.
  std::function<std::string()> print;

  Setting& required();
  /// Required unless that option is given.
  Setting& required_unless(const std::string& option);
  /// The option may be given without a value, and then means `value`.
  Setting& without_value_means(const std::string& value);
  /// On a command line the empty text is a value, not a mistake.
  Setting& may_be_empty();
  /// Replaces value_name.
  Setting& shown_as(const std::string& shown);
};

/// Settings over a variable of the caller, which holds the default and must outlive the setting.
/// Integers and finite decimals: the whole text must be a number within the limits.
Setting setting(std::string name, int64_t* target, std::string help, Limits limits = {});
Setting setting(std::string name, double* target, std::string help, Limits limits = {});
/// N or N,N,..., each within the limits. Empty text is an empty list.
Setting setting(std::string name, std::vector<int64_t>* target, std::string help,
                Limits limits = {});
/// true or false (also yes, no, on, off, 1, 0).
Setting setting(std::string name, bool* target, std::string help);
Setting setting(std::string name, std::string* target, std::string help);
/// One of `choices`, spelled exactly.
Setting setting(std::string name, std::string* target, std::string help,
                std::vector<std::string> choices);
/// A path, made absolute from the working directory. Empty text is an empty path.
Setting setting(std::string name, std::filesystem::path* target, std::string help);
Setting setting(std::string name, ByteCount* target, std::string help);
/// Optional values: empty text sets nullopt; only of a text it is a value.
Setting setting(std::string name, std::optional<int64_t>* target, std::string help,
                Limits limits = {});
Setting setting(std::string name, std::optional<double>* target, std::string help,
                Limits limits = {});
Setting setting(std::string name, std::optional<bool>* target, std::string help);
Setting setting(std::string name, std::optional<std::string>* target, std::string help);
Setting setting(std::string name, std::optional<std::filesystem::path>* target, std::string help);
/// A list of paths: each assignment adds one.
Setting setting(std::string name, std::vector<std::filesystem::path>* target, std::string help);
/// A list of texts, which may be blank but not empty: each assignment adds one.
Setting setting(std::string name, std::vector<std::string>* target, std::string help);

/// An option without a value, which sets `target` to true.
Setting flag(std::string name, bool* target, std::string help);

/// One of `choices`: assigning calls `choose` with its index; `chosen` returns the current index.
Setting choice(std::string name, std::string help, std::vector<std::string> choices,
               std::function<void(size_t)> choose, std::function<std::string()> chosen);

/// An enum, by the names of its values.
template <class E>
requires std::is_enum_v<E> Setting setting(std::string name, E* target, std::string help,
                                           EnumNames<E> names) {
  std::vector<std::string> choices;
  for (const auto& entry : names) choices.push_back(entry.first);
  const auto choose = [target, names](size_t index) { *target = names[index].second; };
  const auto chosen = [target, names] { return name_of(names, *target); };
  return choice(std::move(name), std::move(help), std::move(choices), choose, chosen);
}

/// An optional enum: empty text sets nullopt.
template <class E>
requires std::is_enum_v<E> Setting setting(std::string name, std::optional<E>* target,
                                           std::string help, EnumNames<E> names) {
  std::vector<std::string> choices;
  for (const auto& entry : names) choices.push_back(entry.first);
  const auto choose = [target, names](size_t index) { *target = names[index].second; };
  const auto chosen = [target, names] {
    return target->has_value() ? name_of(names, **target) : std::string();
  };
  Setting made = choice(std::move(name), std::move(help), std::move(choices), choose, chosen);
  made.assign = [target, assign = made.assign](const std::string& text) {
    if (!text.empty()) return assign(text);
    target->reset();
    return std::optional<std::string>();
  };
  return made;
}

/// The shortest text that parses to exactly this number.
std::string print_number(double value);

/// The setting of that name, or null.
const Setting* find_setting(const std::vector<Setting>& settings, const std::string& name);

}  // namespace regroup
