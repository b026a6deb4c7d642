#include "framework/text/nearest_name.h"

#include <algorithm>
#include <cctype>

namespace regroup {
namespace {

/// In lower case, with - for _, without the dashes of an option.
std::string simplified(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::replace(text.begin(), text.end(), '_', '-');
  return text.erase(0, text.find_first_not_of('-'));
}

/// Optimal string alignment distance; O(|a| |b|) on names of a few dozen characters.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replace});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

/// "lr" of "learning-rate".
std::string initials(const std::string& name) {
  std::string letters;
  for (size_t i = 0; i < name.size(); ++i) {
    if (i == 0 || name[i - 1] == '-') letters += name[i];
  }
  return letters;
}

/// How many edits still make a misspelling: half of the word.
size_t most_edits(const std::string& wanted) {
  return std::max<size_t>(1, last_part(wanted).size() / 2);
}

}  // namespace

std::string nearest_name(const std::string& name, const std::vector<std::string>& known) {
  constexpr size_t kLongestName = 64;  // a longer name is not a misspelling
  const std::string wanted = simplified(name.substr(0, kLongestName));
  std::string nearest;
  size_t fewest_edits = most_edits(wanted) + 1;
  for (const std::string& candidate : known) {
    const std::string spelled = simplified(candidate);
    const bool in_a_section = spelled.find('.') != std::string::npos;
    const bool is_the_word = in_a_section && (last_part(wanted) == last_part(spelled) ||
                                              initials(last_part(wanted)) == last_part(spelled));
    const size_t length_apart = std::max(wanted.size(), spelled.size()) -
                                std::min(wanted.size(), spelled.size());  // edits at the least
    if (!is_the_word && length_apart >= fewest_edits) continue;
    size_t edits = edit_distance(wanted, spelled);
    if (is_the_word) edits = std::min<size_t>(edits, 1);
    if (edits < fewest_edits) {
      fewest_edits = edits;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& known) {
  const std::string nearest = nearest_name(name, known);
  return nearest.empty() ? "" : " (did you mean " + nearest + "?)";
}

}  // namespace regroup
