// tools/generation/tokenizer.h: text to tokens and back, by the packages `tokenizers` and, for
// chats, `transformers` of the Python named at configure time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/generation/child_program.h"

namespace regroup {

class Tokenizer {
 public:
  /// The tokenizer of a model folder. The first call below starts one Python, which serves until
  /// the destructor.
  explicit Tokenizer(std::filesystem::path model_folder) : folder_(std::move(model_folder)) {}

  /// With the special tokens that the tokenizer puts around a text. Throws a request Error that
  /// points to --tokens where the folder has no tokenizer.json, or Python or its package is
  /// missing; an Error where the tokenizer refuses.
  std::vector<int64_t> encode(const std::string& text);
  /// Messages as the folder's chat template writes them, up to where the model's answer begins.
  /// Throws as encode(), and a request Error where the folder has no chat template.
  std::vector<int64_t> encode_chat(const nlohmann::ordered_json& messages);
  /// Special tokens are left out. Throws as encode().
  std::string decode(const std::vector<int64_t>& ids);

 private:
  void start();
  std::string ask(const Message& request);

  std::filesystem::path folder_;
  std::optional<ChildProgram> python_;
};

}  // namespace regroup
