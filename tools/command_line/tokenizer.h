// tools/command_line/tokenizer.h: text to tokens and back, by the `tokenizers` package of the
// Python named at configure time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace regroup {

class Tokenizer {
 public:
  /// Of a model folder. Throws a request Error that points to --tokens where it has no
  /// tokenizer.json.
  explicit Tokenizer(const std::filesystem::path& model_folder);

  /// With the special tokens that the tokenizer puts around a text. Throws a request Error that
  /// points to --tokens where Python or its package is missing, an Error where the tokenizer
  /// refuses.
  std::vector<int64_t> encode(const std::string& text) const;
  /// Special tokens are left out. Throws as encode().
  std::string decode(const std::vector<int64_t>& ids) const;

 private:
  std::string run(const std::string& action, const std::string& input) const;

  std::filesystem::path file_;
};

}  // namespace regroup
