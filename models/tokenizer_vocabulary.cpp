#include "models/tokenizer_vocabulary.h"

namespace regroup {
namespace {

using Json = nlohmann::json;

/// The value of a key; null if the key is absent.
const Json& part(const Json& value, const std::string& key) {
  static const Json null;
  if (!value.is_object()) return null;
  const auto found = value.find(key);
  return found == value.end() ? null : *found;
}

std::optional<std::string> as_text(const Json& value) {
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

std::optional<int64_t> as_integer(const Json& value) {
  return value.is_number_integer() ? std::optional(value.get<int64_t>()) : std::nullopt;
}

/// The text of an entry [text, score] of a Unigram vocabulary.
std::optional<std::string> unigram_text(const Json& entry) {
  return entry.is_array() && !entry.empty() ? as_text(entry[0]) : std::nullopt;
}

std::optional<std::string> first_token_of(const Json& processor) {
  for (const auto& step : part(processor, "processors")) {
    if (const auto token = first_token_of(step)) return token;
  }
  const auto& pieces = part(processor, "single");
  if (!pieces.is_array() || pieces.empty()) return std::nullopt;
  return as_text(part(part(pieces[0], "SpecialToken"), "id"));
}

}  // namespace

std::optional<std::string> TokenizerVocabulary::text_of(int64_t id) const {
  for (const auto& token : part(tokenizer_, "added_tokens")) {
    if (part(token, "id") == id) return as_text(part(token, "content"));
  }
  const auto& vocab = part(part(tokenizer_, "model"), "vocab");
  if (vocab.is_array()) {
    const auto index = static_cast<size_t>(id);
    return id >= 0 && index < vocab.size() ? unigram_text(vocab[index]) : std::nullopt;
  }
  for (const auto& [token, its_id] : vocab.items()) {
    if (its_id == id) return token;
  }
  return std::nullopt;
}

std::optional<int64_t> TokenizerVocabulary::id_of(const std::string& token) const {
  for (const auto& added : part(tokenizer_, "added_tokens")) {
    if (part(added, "content") == token) return as_integer(part(added, "id"));
  }
  const auto& vocab = part(part(tokenizer_, "model"), "vocab");
  if (vocab.is_object()) return as_integer(part(vocab, token));
  for (size_t id = 0; id < vocab.size(); ++id) {
    if (unigram_text(vocab[id]) == token) return static_cast<int64_t>(id);
  }
  return std::nullopt;
}

std::optional<std::string> TokenizerVocabulary::first_token() const {
  return first_token_of(part(tokenizer_, "post_processor"));
}

std::optional<std::string> special_token_text(const Json& token) {
  return as_text(token.is_object() ? part(token, "content") : token);
}

}  // namespace regroup
