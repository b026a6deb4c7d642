#include "models/tokenizer_files.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "framework/files/atomic_write.h"
#include "framework/progress/console.h"
#include "models/companion_files.h"
#include "models/tokenizer_vocabulary.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr const char* kSpecialTokensMap = "special_tokens_map.json";  // older than its config
constexpr const char* kAddedTokens = "added_tokens.json";
constexpr const char* kGenerationConfig = "generation_config.json";

/// A special token's id; of several (Llama 3's eos) the first.
std::optional<int64_t> id_in(const Json& special_tokens, const char* key) {
  auto id = special_tokens.value(key, Json());
  if (id.is_array() && !id.empty()) id = id[0];
  return id.is_number_integer() ? std::optional(id.get<int64_t>()) : std::nullopt;
}

std::optional<std::string> named_token(const Json& names, const std::string& name) {
  return special_token_text(names.is_object() ? names.value(name, Json()) : Json());
}

/// Completes the special tokens by those that a tokenizer_config.json or special_tokens_map.json
/// names.
Json completed(Json special_tokens, const TokenizerVocabulary& vocabulary, const Json& names) {
  for (const std::string name : {"bos_token", "eos_token", "pad_token"}) {
    if (special_tokens.contains(name + "_id")) continue;
    const auto token = named_token(names, name);
    const auto id = token ? vocabulary.id_of(*token) : std::nullopt;
    special_tokens[name + "_id"] = id ? Json(*id) : Json();
  }
  return special_tokens;
}

/// The tokenizer's description for transformers. Where nothing is put before a text, bos is eos,
/// which stands there in the training data, as in GPT-2; some programs cannot do without a bos.
Json tokenizer_config(const TokenizerVocabulary& vocabulary, const Json& special_tokens,
                      int64_t max_seq_len) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", max_seq_len}};
  for (const std::string name : {"bos_token", "eos_token", "pad_token"}) {
    const auto id = id_in(special_tokens, (name + "_id").c_str());
    const auto token = id ? vocabulary.text_of(*id) : std::nullopt;
    if (token) config[name] = *token;
  }
  const bool may_choose_bos = !special_tokens.contains("bos_token_id");
  const auto bos =
      vocabulary.first_token() ? vocabulary.first_token() : named_token(config, "eos_token");
  if (may_choose_bos && bos) config["bos_token"] = *bos;
  return config;
}

void write_generation_config(const fs::path& folder, const Json& special_tokens) {
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
  note_once(c10::str(text.folder.string(), ": not copied: ", c10::Join(", ", left),
                     n_left > kMostNames ? c10::str(" and ", n_left - kMostNames, " more") : ""));
}

/// A file's JSON; null where the folder has no such file.
Json read_if_there(const fs::path& file) {
  return fs::exists(file) ? read_json_file(file) : Json();
}

/// A token, or the tokens of an array or object of them, in any of the forms of
/// tokenizer_config.json.
void collect_tokens(const Json& value, std::set<std::string>& tokens) {
  if (const auto token = special_token_text(value)) {
    tokens.insert(*token);
  } else if (value.is_structured()) {
    for (const auto& inner : value) collect_tokens(inner, tokens);
  }
}

bool holds_tokens(const std::string& key) {
  return key == "added_tokens_decoder" || key.ends_with("_token") ||
         key.ends_with("_special_tokens");
}

/// The tokens that a folder's files beside its tokenizer.json name.
std::set<std::string> named_tokens(const fs::path& folder) {
  std::set<std::string> tokens;
  for (const char* file : {kTokenizerConfig, kSpecialTokensMap}) {
    const auto settings = read_if_there(folder / file);
    for (const auto& [key, value] : settings.items()) {
      if (holds_tokens(key)) collect_tokens(value, tokens);
    }
  }
  const auto added = read_if_there(folder / kAddedTokens);
  for (const auto& [token, id] : added.items()) tokens.insert(token);
  return tokens;
}

}  // namespace

std::vector<std::string> tokens_outside_tokenizer(const fs::path& folder) {
  const auto named = named_tokens(folder);
  const TokenizerVocabulary vocabulary(read_json_file(folder / kTokenizer));
  std::vector<std::string> outside;
  std::copy_if(named.begin(), named.end(), std::back_inserter(outside),
               [&](const auto& token) { return !vocabulary.id_of(token); });
  return outside;
}

Json special_tokens(const JsonObject& config) {
  auto tokens = Json::object();
  const auto keys = config.keys();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end())
      tokens[key] = config.has(key) ? config.raw(key) : Json();
  }
  return tokens;
}

Json write_tokenizer_files(const fs::path& folder, const TextHandling& text, int64_t max_seq_len) {
  if (!text.tokenizer_json.empty()) write_file_atomically(folder / kTokenizer, text.tokenizer_json);
  if (!text.folder.empty()) copy_companions(folder, text);
  const auto has = [&](const char* file) { return fs::exists(folder / file); };
  auto special_tokens = text.special_tokens;
  if (has(kTokenizer) && (!has(kTokenizerConfig) || special_tokens.size() < 3)) {
    const TokenizerVocabulary vocabulary(read_json_file(folder / kTokenizer));
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
