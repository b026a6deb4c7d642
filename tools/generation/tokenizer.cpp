#include "tools/generation/tokenizer.h"

#include <c10/util/StringUtil.h>

#include <nlohmann/json.hpp>

#include "framework/data/token_ids.h"
#include "framework/errors/error.h"
#include "framework/progress/console.h"
#include "models/tokenizer_files.h"
#include "tools/generation/text_service.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEncodeChat = "encode_chat";
constexpr const char* kUseTokens = "Give the prompt as ids, with --tokens 1,2,3 and no --stop.";

void warn_of_tokens_outside(const fs::path& folder) {
  const auto outside = tokens_outside_tokenizer(folder);
  if (outside.empty()) return;
  warn_once(c10::str(folder.string(), ": tokenizer.json lacks ", outside.size(),
                     " of the tokens that other files there name, such as \"", outside.front(),
                     "\": here they are plain text, and transformers gives them new ids. "
                     "Saving the tokenizer with transformers writes them into tokenizer.json."));
}

}  // namespace

void Tokenizer::start() {
  if (!fs::is_regular_file(folder_ / "tokenizer.json")) {
    throw request_error(folder_.string(),
                        "holds no tokenizer.json, so text means nothing to the model", kUseTokens);
  }
  warn_of_tokens_outside(folder_);
  // -I: no module of the working directory or of the user's environment takes a package's place
  const std::vector<std::string> command{REGROUP_PYTHON, "-I", "-c", std::string(kTextService),
                                         folder_.string()};
  python_.emplace(command, kUseTokens);
}

std::string Tokenizer::ask(const Message& request) {
  if (!python_) start();
  const auto answer = python_->ask(request);
  if (!answer) {
    throw Error(REGROUP_PYTHON, "ended when asked to " + request.kind,
                "Is there enough memory, and does this Python work?");
  }
  if (answer->kind == "done") return answer->body;
  if (answer->kind == "no_template") {
    throw request_error(folder_.string(), "has no chat template",
                        "Leave out --chat, or put the template's chat_template.jinja there.");
  }
  if (answer->kind == "no_package") {
    throw request_error(REGROUP_PYTHON, "lacks a package (" + answer->body + ")",
                        std::string("Install tools/requirements.txt there. ") + kUseTokens);
  }
  if (request.kind == kEncodeChat) {
    throw Error(folder_.string(), "cannot write the messages as a chat: " + answer->body,
                "Change them, or the folder's chat template.");
  }
  throw Error((folder_ / "tokenizer.json").string(), "cannot " + request.kind + ": " + answer->body,
              "Is the file a whole tokenizer.json, and the text UTF-8?");
}

std::vector<int64_t> Tokenizer::encode(const std::string& text) {
  return parse_token_ids(ask({"encode", text}), folder_.string());
}

std::vector<int64_t> Tokenizer::encode_chat(const nlohmann::ordered_json& messages) {
  try {
    return parse_token_ids(ask({kEncodeChat, messages.dump()}), folder_.string());
  } catch (const nlohmann::ordered_json::type_error&) {
    throw Error(folder_.string(), "cannot write the messages as a chat: they are not UTF-8",
                "Change their encoding.");
  }
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids) {
  return ask({"decode", c10::Join(" ", ids)});
}

}  // namespace regroup
