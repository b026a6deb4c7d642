#include "framework/data/token_ids.h"

#include <charconv>
#include <sstream>

#include "framework/errors/error.h"
#include "framework/text/human.h"

namespace regroup {

std::vector<int64_t> parse_token_ids(const std::string& text, const std::string& where) {
  std::vector<int64_t> ids;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    uint32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size()) {
      throw Error(where, "gave \"" + abbreviated(word, 40) + "\" for a token id",
                  "Check that it is the tokenizer of this model.");
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace regroup
