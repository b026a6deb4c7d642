#include "models/tokenizer_files.h"

#include "framework/files/atomic_write.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokenizerFiles[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "tokenizer.model",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "chat_template.jinja",
                                           "generation_config.json"};

}  // namespace

nlohmann::json special_tokens(const JsonObject& json) {
  auto tokens = nlohmann::json::object();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    if (json.has(key)) tokens[key] = json.raw(key);
  }
  return tokens;
}

void write_tokenizer_files(const fs::path& folder, const TextHandling& text) {
  if (!text.tokenizer_json.empty())
    write_file_atomically(folder / "tokenizer.json", text.tokenizer_json);
  if (text.tokenizer_from.empty()) return;
  for (const char* file : kTokenizerFiles) {
    if (!fs::is_regular_file(text.tokenizer_from / file)) continue;
    fs::copy_file(text.tokenizer_from / file, folder / file, fs::copy_options::overwrite_existing);
  }
}

}  // namespace regroup
