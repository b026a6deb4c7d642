// tools/generation/prompts.h: what a model is to continue, from the command line or from a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/generation/tokenizer.h"

namespace regroup {

struct Prompt {
  std::string where;  // for messages: "the prompt", or a file's name and line
  std::vector<int64_t> tokens = {};
  bool is_text = false;  // was given as text, not as ids
  uint64_t line = 1;     // in its file
  nlohmann::ordered_json other_keys = nlohmann::ordered_json::object();  // of its line
};

/// A text, or (chat) what the folder's chat template makes of it as a user's message. Throws as the
/// Tokenizer.
std::vector<int64_t> encode_prompt(const std::string& text, bool chat, Tokenizer& tokenizer);

/// The prompts of a JSONL file: objects with "prompt" (a text), "tokens" (ids) or, if chat,
/// "messages"; blank lines count for line numbers only. Throws an Error that names file and line.
std::vector<Prompt> read_prompts(const std::filesystem::path& file, bool chat,
                                 Tokenizer& tokenizer);

}  // namespace regroup
