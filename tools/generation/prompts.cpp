#include "tools/generation/prompts.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>

#include "framework/errors/error.h"
#include "framework/files/json.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr std::array<std::string_view, 3> kPromptKeys{"prompt", "tokens", "messages"};
constexpr std::array<std::string_view, 4> kResultKeys{"prompt_tokens", "tokens", "text",
                                                      "stopped_by"};

template <size_t n>
bool is_one_of(const std::array<std::string_view, n>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void require_one_prompt(const JsonObject& line, bool chat) {
  const auto n_prompts = std::count_if(kPromptKeys.begin(), kPromptKeys.end(),
                                       [&](auto key) { return line.has(std::string(key)); });
  if (n_prompts != 1) {
    throw Error(line.where(), "needs exactly one of \"prompt\", \"tokens\" and \"messages\"",
                "Give each line one prompt.");
  }
  if (chat && line.has("tokens")) {
    throw request_error(line.where(), "has \"tokens\", which --chat cannot make a chat of",
                        "Give \"prompt\" or \"messages\", or leave out --chat.");
  }
  if (!chat && line.has("messages")) {
    throw request_error(line.where(), "has \"messages\"", "Add --chat, or give \"prompt\".");
  }
}

void require_messages(const JsonObject& line) {
  const auto& messages = line.raw("messages");
  const bool are_messages = messages.is_array() && !messages.empty() &&
                            std::all_of(messages.begin(), messages.end(), [](const Json& message) {
                              return message.is_object() && message.contains("role");
                            });
  if (!are_messages) line.refuse("messages", "an array of objects with \"role\" and \"content\"");
}

/// ordered: the line with its keys in the order of the file, in which templates print them.
std::vector<int64_t> tokens_of(const JsonObject& line, const OrderedJson& ordered, bool chat,
                               Tokenizer& tokenizer) {
  if (line.has("tokens")) return line.integers("tokens");
  const auto text = line.find_string("prompt");
  if (!text) require_messages(line);
  try {
    return text ? encode_prompt(*text, chat, tokenizer)
                : tokenizer.encode_chat(ordered.at("messages"));
  } catch (const Error& error) {
    throw Error(line.where(), error.what(), /*what_to_do=*/"", error.exit_code());
  }
}

OrderedJson other_keys_of(const JsonObject& line, const OrderedJson& ordered) {
  auto others = OrderedJson::object();
  for (const auto& [key, value] : ordered.items()) {
    if (is_one_of(kPromptKeys, key)) continue;
    if (is_one_of(kResultKeys, key)) {
      throw Error(line.where(), "has the key \"" + key + "\", which its result needs",
                  "Rename the key.");
    }
    others[key] = value;
  }
  return others;
}

Prompt read_prompt(const std::string& text, const std::string& where, uint64_t number, bool chat,
                   Tokenizer& tokenizer) {
  const JsonObject line(parse_json(text, where), where);
  const auto ordered = OrderedJson::parse(text);
  require_one_prompt(line, chat);
  return {.where = line.where(),
          .tokens = tokens_of(line, ordered, chat, tokenizer),
          .is_text = !line.has("tokens"),
          .line = number,
          .other_keys = other_keys_of(line, ordered)};
}

}  // namespace

std::vector<int64_t> encode_prompt(const std::string& text, bool chat, Tokenizer& tokenizer) {
  if (!chat) return tokenizer.encode(text);
  return tokenizer.encode_chat(OrderedJson::array({{{"role", "user"}, {"content", text}}}));
}

std::vector<Prompt> read_prompts(const fs::path& file, bool chat, Tokenizer& tokenizer) {
  std::ifstream lines(file);
  if (!lines) {
    throw Error(file.string(), std::string("cannot be read (") + std::strerror(errno) + ")",
                "Name a file of prompts.");
  }
  std::vector<Prompt> prompts;
  uint64_t number = 0;
  for (std::string text; std::getline(lines, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto where = c10::str(file.string(), ":", number);
    prompts.push_back(read_prompt(text, where, number, chat, tokenizer));
  }
  if (prompts.empty()) {
    throw Error(file.string(), "holds no prompts",
                "Write a JSON object on each line, such as {\"prompt\": \"def main(\"}.");
  }
  return prompts;
}

}  // namespace regroup
