#include "models/card_license.h"

#include <fstream>

#include "models/run_layout.h"

namespace regroup {
namespace {

constexpr const char* kFence = "---";
constexpr int kMostLines = 1000;  // of a header

/// Without spaces, carriage return and quotes around it; empty for lists and objects.
std::string plain_value(std::string text) {
  const auto trim = [&text](const char* characters) {
    const auto first = text.find_first_not_of(characters);
    if (first == std::string::npos) return text.clear();
    text = text.substr(first, text.find_last_not_of(characters) - first + 1);
  };
  trim(" \t\r");
  if (text.starts_with('[') || text.starts_with('{')) return "";
  trim("\"'");
  return text;
}

}  // namespace

std::map<std::string, std::string> card_license(const std::filesystem::path& folder) {
  std::map<std::string, std::string> license;
  std::ifstream card(folder / kModelCard);
  std::string line;
  if (!std::getline(card, line) || !line.starts_with(kFence)) return license;
  for (int n = 0; n < kMostLines && std::getline(card, line); ++n) {
    if (line.starts_with(kFence)) return license;
    for (const char* key : {"license", "license_name", "license_link"}) {
      if (!line.starts_with(std::string(key) + ":")) continue;
      const auto value = plain_value(line.substr(std::string(key).size() + 1));
      if (!value.empty()) license[key] = value;
    }
  }
  return {};  // a header that does not end is none
}

}  // namespace regroup
