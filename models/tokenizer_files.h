// models/tokenizer_files.h: what a model folder holds beside its weights so that its tokens are
// text.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "framework/files/json.h"

namespace regroup {

/// How a model's tokens are text: what travels with it and changes no logit.
struct TextHandling {
  nlohmann::json special_tokens =
      nlohmann::json::object();          // config.json's bos_, eos_ and pad_token_id
  std::filesystem::path tokenizer_from;  // a folder whose tokenizer files are copied; empty: none
  std::string tokenizer_json;            // the text of tokenizer.json, where there is no folder
};

/// The special tokens that a config.json names.
nlohmann::json special_tokens(const JsonObject& config);

/// Writes the tokenizer's files into a model folder.
void write_tokenizer_files(const std::filesystem::path& folder, const TextHandling& text);

}  // namespace regroup
