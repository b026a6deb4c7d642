#include "framework/errors/error.h"

#include <algorithm>

#include "framework/text/human.h"

namespace regroup {
namespace {

constexpr size_t kMostComplaintsShown = 5;
constexpr size_t kMostBytes = 400;  // of one part, so that a whole message stays a short block

std::string shortened(const std::string& text) { return abbreviated(text, kMostBytes); }

std::string sentence(const std::string& what, const std::string& what_to_do) {
  if (what_to_do.empty()) return what;
  return what + (what.ends_with('\n') ? "" : ". ") + what_to_do;
}

}  // namespace

Error::Error(const std::string& where, const std::string& what, const std::string& what_to_do,
             ExitCode exit_code)
    : std::runtime_error(shortened(where) + ": " + sentence(what, what_to_do)),
      exit_code_(exit_code) {}

Error request_error(const std::string& where, const std::string& what,
                    const std::string& what_to_do) {
  return Error(where, shortened(what), what_to_do, ExitCode::kBadRequest);
}

void Complaints::throw_if_any(const std::string& where, const std::string& what_to_do,
                              ExitCode exit_code) const {
  if (empty()) return;
  const size_t shown = std::min(complaints_.size(), kMostComplaintsShown);
  std::string text = complaints_.size() == 1 ? shortened(complaints_[0])
                                             : std::to_string(complaints_.size()) + " problems";
  for (size_t i = 0; i < shown && complaints_.size() > 1; ++i) {
    text += "\n  " + shortened(complaints_[i]);
  }
  if (complaints_.size() > shown) {
    text += "\n  and " + std::to_string(complaints_.size() - shown) + " more";
  }
  const std::string separator = complaints_.size() > 1 ? "\n" : "";
  throw Error(where, text + separator, what_to_do, exit_code);
}

}  // namespace regroup
