#include "framework/text/growing_text.h"

#include <algorithm>

namespace regroup {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// True if the stop text begins with the rest of the text from a position on.
bool may_begin_stop(std::string_view rest, const std::vector<std::string>& stops) {
  return std::any_of(stops.begin(), stops.end(),
                     [&](const std::string& stop) { return stop.starts_with(rest); });
}

}  // namespace

size_t find_first_stop(std::string_view text, const std::vector<std::string>& stops) {
  size_t first = std::string_view::npos;
  for (const auto& stop : stops) first = std::min(first, text.find(stop));
  return first;
}

std::string_view settled_part(std::string_view text, const std::vector<std::string>& stops) {
  while (text.ends_with(kReplacementCharacter)) text.remove_suffix(kReplacementCharacter.size());
  size_t settled = 0;
  while (settled < text.size() && !may_begin_stop(text.substr(settled), stops)) ++settled;
  return text.substr(0, settled);
}

}  // namespace regroup
