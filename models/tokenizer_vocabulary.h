// models/tokenizer_vocabulary.h: the tokens of a tokenizer.json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace regroup {

/// The tokens by id and by text. Nothing throws, whatever the JSON holds.
class TokenizerVocabulary {
 public:
  explicit TokenizerVocabulary(nlohmann::json tokenizer) : tokenizer_(std::move(tokenizer)) {}

  std::optional<std::string> text_of(int64_t id) const;
  /// Looks among the added tokens, where special tokens stand, then in the model's vocabulary.
  std::optional<int64_t> id_of(const std::string& token) const;
  /// The special token that the tokenizer puts before every text.
  std::optional<std::string> first_token() const;

 private:
  nlohmann::json tokenizer_;
};

/// The text of a special token as tokenizer_config.json writes it: a string, or an object that
/// holds it as content.
std::optional<std::string> special_token_text(const nlohmann::json& token);

}  // namespace regroup
