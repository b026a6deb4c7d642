// models/tokenizer_files.h: what a model folder holds beside its weights so that its tokens are
// text: tokenizer files, and the special tokens of config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "framework/files/json.h"

namespace regroup {

/// A model's tokenizer and special tokens. None of it changes a logit.
struct TextHandling {
  /// bos_token_id, eos_token_id and pad_token_id of config.json; absent keys stay absent.
  nlohmann::json special_tokens = nlohmann::json::object();
  /// The folder whose companion files travel; empty: none.
  std::filesystem::path folder = {};
  std::set<std::string> replaced = {};  // of its files, those that a new model has its own of
  std::string tokenizer_json = {};      // the text of tokenizer.json, where there is no folder
};

/// The special tokens that a config.json names.
nlohmann::json special_tokens(const JsonObject& config);

/// Tokens that tokenizer_config.json, special_tokens_map.json or added_tokens.json names and the
/// folder's tokenizer.json lacks, sorted. transformers gives them new ids; for a program that reads
/// tokenizer.json alone they are plain text. Throws Error for a file that cannot be read or is not
/// JSON.
std::vector<std::string> tokens_outside_tokenizer(const std::filesystem::path& folder);

/// Writes the tokenizer into a model's folder: the companion files of text.folder or
/// text.tokenizer_json, and a tokenizer_config.json and generation_config.json where these are not
/// among them, so that transformers and other clients find the special tokens. A note names the
/// files that stay behind. max_seq_len: the model's; the tokenizer_config.json names it. -> the
/// special tokens for config.json: those of `text`; those that it lacks come from the tokenizer
/// (null: it has none). Throws Error where the special tokens must be read from a tokenizer.json
/// that is not JSON.
nlohmann::json write_tokenizer_files(const std::filesystem::path& folder, const TextHandling& text,
                                     int64_t max_seq_len);

}  // namespace regroup
