#include "framework/text/human.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace regroup {
namespace {

/// value / step^n below step (after rounding), with three significant digits and the n-th unit.
template <size_t N>
std::string scaled(double value, double step, const std::array<const char*, N>& units) {
  constexpr double kRoundsUp = 0.9995;
  size_t unit = 0;
  double amount = value;
  while (std::abs(amount) >= kRoundsUp * step && unit + 1 < N) {
    amount /= step;
    ++unit;
  }
  const bool whole = unit == 0 && amount == std::floor(amount);
  const double size = std::abs(amount);
  const int digits = whole || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  const std::string suffix = units[unit];
  return fixed(amount, digits) + (suffix.empty() ? "" : " " + suffix);
}

std::string with_two_digits(int64_t value) {
  return (value < 10 ? "0" : "") + std::to_string(value);
}

}  // namespace

std::string human_count(double value) {
  return scaled<6>(value, 1000, {"", "k", "M", "G", "T", "P"});
}

std::string human_bytes(double bytes) {
  return scaled<6>(bytes, 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB"});
}

std::string human_duration(double seconds) {
  constexpr int64_t kMinute = 60;
  constexpr int64_t kHour = 60 * kMinute;
  constexpr int64_t kDay = 24 * kHour;
  constexpr double kLongest = 1e12;
  if (!std::isfinite(seconds) || seconds < 0 || seconds > kLongest) return "?";
  if (seconds < 9.95) return fixed(seconds, 1) + " s";
  const int64_t whole = std::llround(seconds);
  if (whole < kMinute) return std::to_string(whole) + " s";
  if (whole < kHour) {
    return std::to_string(whole / kMinute) + " min " + with_two_digits(whole % kMinute) + " s";
  }
  if (whole < kDay) {
    return std::to_string(whole / kHour) + " h " + with_two_digits(whole % kHour / kMinute) +
           " min";
  }
  return std::to_string(whole / kDay) + " d " + with_two_digits(whole % kDay / kHour) + " h";
}

std::string fixed(double value, int digits) {
  std::array<char, 400> text{};  // the largest double has 309 digits before the point
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string abbreviated(const std::string& text, size_t most_bytes) {
  return text.size() <= most_bytes ? text : text.substr(0, most_bytes) + "...";
}

std::string printable(const std::string& text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 = byte == 0xC2 && i + 1 < text.size() &&  // U+0080 to U+009F in UTF-8
                       static_cast<unsigned char>(text[i + 1]) < 0xA0;
    const bool is_control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F || is_c1;
    if (!is_control) {
      shown += text[i];
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x",
                  static_cast<unsigned>(is_c1 ? static_cast<unsigned char>(text[++i]) : byte));
    shown += escaped;
  }
  return shown;
}

std::string aligned_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      text += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    text += '\n';
  }
  return text;
}

}  // namespace regroup
