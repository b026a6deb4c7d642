#include "models/tokenizer_files.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <optional>

#include "framework/files/atomic_write.h"
#include "framework/progress/console.h"
#include "models/companion_files.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr const char* kSpecialTokensMap = "special_tokens_map.json";  // older than its config
constexpr const char* kGenerationConfig = "generation_config.json";

/// The tokens of a tokenizer.json by id and by text. Whatever its JSON holds, nothing throws.
class Vocabulary {
 public:
  explicit Vocabulary(json tokenizer) : tokenizer_(std::move(tokenizer)) {}

  std::optional<std::string> text_of(int64_t id) const {
    for (const auto& token : part(tokenizer_, "added_tokens")) {
      if (part(token, "id") == id) return text(part(token, "content"));
    }
    const auto& vocab = part(part(tokenizer_, "model"), "vocab");
    if (vocab.is_array()) {  // [text, score] by id
      const auto index = static_cast<size_t>(id);
      return id >= 0 && index < vocab.size() && vocab[index].is_array() && !vocab[index].empty()
                 ? text(vocab[index][0])
                 : std::nullopt;
    }
    for (const auto& [token, its_id] : vocab.items()) {
      if (its_id == id) return token;
    }
    return std::nullopt;
  }

  /// The id of a token that stands among the added ones, as special tokens do, or in the
  /// vocabulary.
  std::optional<int64_t> id_of(const std::string& token) const {
    for (const auto& added : part(tokenizer_, "added_tokens")) {
      if (part(added, "content") == token) return integer(part(added, "id"));
    }
    const auto& vocab = part(part(tokenizer_, "model"), "vocab");
    if (vocab.is_object()) return integer(part(vocab, token));
    for (size_t id = 0; id < vocab.size(); ++id) {
      if (vocab[id].is_array() && !vocab[id].empty() && vocab[id][0] == token)
        return static_cast<int64_t>(id);
    }
    return std::nullopt;
  }

  /// The special token that the tokenizer puts before every text.
  std::optional<std::string> first_token() const {
    return first_token(part(tokenizer_, "post_processor"));
  }

 private:
  static std::optional<std::string> first_token(const json& processor) {
    for (const auto& step : part(processor, "processors")) {
      if (const auto token = first_token(step)) return token;
    }
    const auto& pieces = part(processor, "single");
    if (!pieces.is_array() || pieces.empty()) return std::nullopt;
    return text(part(part(pieces[0], "SpecialToken"), "id"));
  }

  /// What stands under a key; null where nothing does.
  static const json& part(const json& value, const std::string& key) {
    static const json null;
    if (!value.is_object()) return null;
    const auto found = value.find(key);
    return found == value.end() ? null : *found;
  }
  static std::optional<std::string> text(const json& value) {
    return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
  }
  static std::optional<int64_t> integer(const json& value) {
    return value.is_number_integer() ? std::optional(value.get<int64_t>()) : std::nullopt;
  }

  json tokenizer_;
};

/// A special token's id; of several (Llama 3's eos) the first.
std::optional<int64_t> id_in(const json& special_tokens, const char* key) {
  auto id = special_tokens.value(key, json());
  if (id.is_array() && !id.empty()) id = id[0];
  return id.is_number_integer() ? std::optional(id.get<int64_t>()) : std::nullopt;
}

/// As transformers writes a special token: its text, or an object that holds it as content.
std::optional<std::string> token_in(const json& names, const std::string& name) {
  auto token = names.is_object() ? names.value(name, json()) : json();
  if (token.is_object()) token = token.value("content", json());
  return token.is_string() ? std::optional(token.get<std::string>()) : std::nullopt;
}

/// Completes the special tokens by those that a tokenizer_config.json or special_tokens_map.json
/// names.
json completed(json special_tokens, const Vocabulary& vocabulary, const json& names) {
  for (const std::string name : {"bos_token", "eos_token", "pad_token"}) {
    if (special_tokens.contains(name + "_id")) continue;
    const auto token = token_in(names, name);
    const auto id = token ? vocabulary.id_of(*token) : std::nullopt;
    special_tokens[name + "_id"] = id ? json(*id) : json();
  }
  return special_tokens;
}

/// The tokenizer's description for transformers. Where nothing is put before a text, bos is eos,
/// which stands there in the training data, as in GPT-2; some programs cannot do without a bos.
json tokenizer_config(const Vocabulary& vocabulary, const json& special_tokens,
                      int64_t max_seq_len) {
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", max_seq_len}};
  for (const std::string name : {"bos_token", "eos_token", "pad_token"}) {
    const auto id = id_in(special_tokens, (name + "_id").c_str());
    const auto token = id ? vocabulary.text_of(*id) : std::nullopt;
    if (token) config[name] = *token;
  }
  const bool may_choose_bos = !special_tokens.contains("bos_token_id");
  const auto bos =
      vocabulary.first_token() ? vocabulary.first_token() : token_in(config, "eos_token");
  if (may_choose_bos && bos) config["bos_token"] = *bos;
  return config;
}

void write_generation_config(const fs::path& folder, const json& special_tokens) {
  nlohmann::ordered_json config;
  for (const auto& [key, id] : special_tokens.items()) {
    if (!id.is_null()) config[key] = id;
  }
  if (!config.is_null()) write_json_file(folder / kGenerationConfig, config);
}

void copy_companions(const fs::path& folder, const TextHandling& text) {
  auto left = copy_companion_files(text.folder, folder, text.replaced);
  if (left.empty()) return;
  constexpr size_t kMostNames = 10;
  const size_t n_left = left.size();
  left.resize(std::min(n_left, kMostNames));
  note_once(c10::str(text.folder.string(), ": left there: ", c10::Join(", ", left),
                     n_left > kMostNames ? c10::str(" and ", n_left - kMostNames, " more") : ""));
}

}  // namespace

json special_tokens(const JsonObject& config) {
  auto tokens = json::object();
  const auto keys = config.keys();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end())
      tokens[key] = config.has(key) ? config.raw(key) : json();
  }
  return tokens;
}

json write_tokenizer_files(const fs::path& folder, const TextHandling& text, int64_t max_seq_len) {
  if (!text.tokenizer_json.empty()) write_file_atomically(folder / kTokenizer, text.tokenizer_json);
  if (!text.folder.empty()) copy_companions(folder, text);
  const auto has = [&](const char* file) { return fs::exists(folder / file); };
  auto special_tokens = text.special_tokens;
  if (has(kTokenizer) && (!has(kTokenizerConfig) || special_tokens.size() < 3)) {
    const Vocabulary vocabulary(read_json_file(folder / kTokenizer));
    if (!has(kTokenizerConfig) && !has(kSpecialTokensMap)) {
      write_json_file(folder / kTokenizerConfig,
                      tokenizer_config(vocabulary, special_tokens, max_seq_len));
    }
    const auto names = folder / (has(kTokenizerConfig) ? kTokenizerConfig : kSpecialTokensMap);
    special_tokens = completed(std::move(special_tokens), vocabulary, read_json_file(names));
  }
  if (!has(kGenerationConfig)) write_generation_config(folder, special_tokens);
  return special_tokens;
}

}  // namespace regroup
