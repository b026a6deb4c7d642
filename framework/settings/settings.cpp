#include "framework/settings/settings.h"

#include <charconv>
#include <cmath>
#include <system_error>

#include <c10/util/StringUtil.h>

namespace regroup {
namespace {

using Problem = std::optional<std::string>;
constexpr Problem kFine = std::nullopt;

std::string trimmed(const std::string& text) {
  const char* blanks = " \t\r\n";
  const size_t first = text.find_first_not_of(blanks);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

/// The whole text as a number of type T, or nullopt.
template <class T>
std::optional<T> whole_number_text(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stopped_at, problem] = std::from_chars(text.data(), end, value);
  if (problem != std::errc() || stopped_at != end) return std::nullopt;
  return value;
}

bool holds(const Limits& limits, double value) {
  return (limits.min_allowed ? value >= limits.min : value > limits.min) && value <= limits.max;
}

std::string printed(const Limits& limits) {
  const bool has_min = std::isfinite(limits.min);
  const bool has_max = std::isfinite(limits.max);
  if (has_min && has_max) {
    const std::string from = limits.min_allowed ? " from " : " above ";
    return from + print_number(limits.min) + (limits.min_allowed ? " to " : " and at most ") +
           print_number(limits.max);
  }
  if (has_min) return (limits.min_allowed ? " >= " : " > ") + print_number(limits.min);
  if (has_max) return " <= " + print_number(limits.max);
  return "";
}

Problem parse(const std::string& text, int64_t* value, const Limits& limits) {
  const auto number = whole_number_text<int64_t>(text);
  if (!number || !holds(limits, static_cast<double>(*number))) {
    return "expected a whole number" + printed(limits);
  }
  *value = *number;
  return kFine;
}

Problem parse(const std::string& text, double* value, const Limits& limits) {
  const auto number = whole_number_text<double>(text);
  if (!number || !std::isfinite(*number) || !holds(limits, *number)) {
    return "expected a number" + printed(limits);
  }
  *value = *number;
  return kFine;
}

Problem parse(const std::string& text, std::vector<int64_t>* values, const Limits& limits) {
  std::vector<int64_t> numbers;
  size_t begin = 0;
  while (!text.empty() && begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int64_t number = 0;
    if (parse(trimmed(text.substr(begin, end - begin)), &number, limits)) {
      return "expected whole numbers" + printed(limits) + " separated by commas";
    }
    numbers.push_back(number);
    begin = end + 1;
  }
  *values = std::move(numbers);
  return kFine;
}

Problem parse(const std::string& text, bool* value) {
  const bool yes = text == "true" || text == "yes" || text == "on" || text == "1";
  const bool no = text == "false" || text == "no" || text == "off" || text == "0";
  if (!yes && !no) return "expected true or false";
  *value = yes;
  return kFine;
}

Problem parse(const std::string& text, std::string* value) {
  *value = text;
  return kFine;
}

Problem parse(const std::string& text, std::filesystem::path* value) {
  *value =
      text.empty() ? std::filesystem::path() : std::filesystem::absolute(text).lexically_normal();
  return kFine;
}

struct ByteUnit {
  const char* name;
  int64_t bytes;
};

constexpr ByteUnit kByteUnits[] = {{"TiB", int64_t{1} << 40},
                                   {"GiB", int64_t{1} << 30},
                                   {"MiB", int64_t{1} << 20},
                                   {"KiB", int64_t{1} << 10},
                                   {"TB", 1'000'000'000'000},
                                   {"GB", 1'000'000'000},
                                   {"MB", 1'000'000},
                                   {"KB", 1'000},
                                   {"B", 1}};

Problem parse(const std::string& text, ByteCount* value) {
  const size_t digits = text.find_first_not_of("0123456789.");
  const auto amount = whole_number_text<double>(text.substr(0, digits));
  const std::string unit = digits == std::string::npos ? "B" : trimmed(text.substr(digits));
  for (const ByteUnit& known : kByteUnits) {
    if (!amount || unit != known.name) continue;
    const double bytes = *amount * static_cast<double>(known.bytes);
    constexpr double kMostBytes = 9e18;  // below 2^63
    if (bytes < 1 || bytes > kMostBytes) break;
    value->bytes = static_cast<int64_t>(bytes);
    return kFine;
  }
  return "expected a size such as 5GB or 512MiB";
}

std::string print(int64_t value) { return std::to_string(value); }
std::string print(double value) { return print_number(value); }
std::string print(bool value) { return value ? "true" : "false"; }
std::string print(const std::string& value) { return value; }
std::string print(const std::filesystem::path& value) { return value.string(); }

std::string print(const std::vector<int64_t>& values) { return c10::Join(",", values); }

std::string print(const ByteCount& value) {
  for (const ByteUnit& unit : kByteUnits) {
    if (value.bytes > 0 && value.bytes % unit.bytes == 0) {
      return std::to_string(value.bytes / unit.bytes) + unit.name;
    }
  }
  return std::to_string(value.bytes);
}

template <class T, class... Rules>
Setting plain_setting(std::string name, T* target, std::string help, const char* value_name,
                      Rules... rules) {
  Setting made;
  made.name = std::move(name);
  made.help = std::move(help);
  made.value_name = value_name;
  made.assign = [target, rules...](const std::string& text) {
    return parse(trimmed(text), target, rules...);
  };
  made.print = [target] { return print(*target); };
  return made;
}

template <class T, class... Rules>
Setting optional_setting(std::string name, std::optional<T>* target, std::string help,
                         const char* value_name, Rules... rules) {
  Setting made;
  made.name = std::move(name);
  made.help = std::move(help);
  made.value_name = value_name;
  made.assign = [target, rules...](const std::string& text) {
    T value{};
    const bool has_value = !trimmed(text).empty();
    const Problem problem = has_value ? parse(trimmed(text), &value, rules...) : kFine;
    if (!problem) *target = has_value ? std::optional<T>(std::move(value)) : std::nullopt;
    return problem;
  };
  made.print = [target] { return target->has_value() ? print(**target) : std::string(); };
  return made;
}

}  // namespace

Limits at_least(double min) { return {.min = min}; }
Limits above(double min) { return {.min = min, .min_allowed = false}; }
Limits between(double min, double max) { return {.min = min, .max = max}; }

Setting& Setting::required() {
  is_required = true;
  return *this;
}

Setting& Setting::required_unless(const std::string& option) {
  replacement = option;
  return required();
}

Setting& Setting::without_value_means(const std::string& value) {
  takes = Takes::kOptionalValue;
  implied = value;
  return *this;
}

Setting& Setting::may_be_empty() {
  accepts_empty = true;
  return *this;
}

Setting& Setting::shown_as(const std::string& shown) {
  value_name = shown;
  return *this;
}

Setting setting(std::string name, int64_t* target, std::string help, Limits limits) {
  return plain_setting(std::move(name), target, std::move(help), "N", limits);
}

Setting setting(std::string name, double* target, std::string help, Limits limits) {
  return plain_setting(std::move(name), target, std::move(help), "X", limits);
}

Setting setting(std::string name, std::vector<int64_t>* target, std::string help, Limits limits) {
  return plain_setting(std::move(name), target, std::move(help), "N,N,...", limits);
}

Setting setting(std::string name, bool* target, std::string help) {
  return plain_setting(std::move(name), target, std::move(help), "true|false");
}

Setting setting(std::string name, std::string* target, std::string help) {
  return plain_setting(std::move(name), target, std::move(help), "TEXT");
}

Setting setting(std::string name, std::string* target, std::string help,
                std::vector<std::string> choices) {
  const auto choose = [target, choices](size_t index) { *target = choices[index]; };
  return choice(std::move(name), std::move(help), choices, choose, [target] { return *target; });
}

Setting setting(std::string name, std::filesystem::path* target, std::string help) {
  return plain_setting(std::move(name), target, std::move(help), "PATH");
}

Setting setting(std::string name, ByteCount* target, std::string help) {
  return plain_setting(std::move(name), target, std::move(help), "SIZE");
}

Setting setting(std::string name, std::optional<int64_t>* target, std::string help, Limits limits) {
  return optional_setting(std::move(name), target, std::move(help), "N", limits);
}

Setting setting(std::string name, std::optional<double>* target, std::string help, Limits limits) {
  return optional_setting(std::move(name), target, std::move(help), "X", limits);
}

Setting setting(std::string name, std::optional<bool>* target, std::string help) {
  return optional_setting(std::move(name), target, std::move(help), "true|false");
}

/// The text as it is: blanks at its ends count.
Setting setting(std::string name, std::optional<std::string>* target, std::string help) {
  Setting made = optional_setting(std::move(name), target, std::move(help), "TEXT");
  made.assign = [target](const std::string& text) {
    *target = text;
    return kFine;
  };
  return made;
}

Setting setting(std::string name, std::optional<std::filesystem::path>* target, std::string help) {
  return optional_setting(std::move(name), target, std::move(help), "PATH");
}

Setting setting(std::string name, std::vector<std::filesystem::path>* target, std::string help) {
  Setting made;
  made.name = std::move(name);
  made.help = std::move(help);
  made.value_name = "PATH";
  made.repeatable = true;
  made.assign = [target](const std::string& text) {
    if (trimmed(text).empty()) return Problem("expected a path");
    return parse(trimmed(text), &target->emplace_back());
  };
  made.print = [target] { return c10::Join(" ", *target); };
  return made;
}

Setting setting(std::string name, std::vector<std::string>* target, std::string help) {
  Setting made;
  made.name = std::move(name);
  made.help = std::move(help);
  made.value_name = "TEXT";
  made.repeatable = true;
  made.accepts_empty = true;  // blanks are a text; assign() refuses the empty one
  made.assign = [target](const std::string& text) {
    if (text.empty()) return Problem("expected a text");
    target->push_back(text);
    return kFine;
  };
  made.print = [target] { return c10::Join(" ", *target); };
  return made;
}

Setting flag(std::string name, bool* target, std::string help) {
  Setting made = setting(std::move(name), target, std::move(help));
  made.takes = Setting::Takes::kNothing;
  made.implied = "true";
  return made;
}

Setting choice(std::string name, std::string help, std::vector<std::string> choices,
               std::function<void(size_t)> choose, std::function<std::string()> chosen) {
  Setting made;
  made.name = std::move(name);
  made.help = std::move(help);
  made.value_name = c10::Join("|", choices);
  made.assign = [choices, choose](const std::string& text) {
    for (size_t i = 0; i < choices.size(); ++i) {
      if (choices[i] != trimmed(text)) continue;
      choose(i);
      return kFine;
    }
    return Problem("expected one of " + c10::Join(", ", choices));
  };
  made.print = std::move(chosen);
  return made;
}

std::string print_number(double value) {
  const double size = std::abs(value);
  const bool reads_well = size == 0 || (size >= 1e-4 && size < 1e15);
  const auto format = reads_well ? std::chars_format::fixed : std::chars_format::scientific;
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, format).ptr;
  return std::string(text, end);
}

const Setting* find_setting(const std::vector<Setting>& settings, const std::string& name) {
  for (const Setting& known : settings) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

}  // namespace regroup
