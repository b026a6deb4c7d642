#include "models/generate.h"

#include <torch/types.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "models/model_folder.h"
#include "models/token_meaning.h"
#include "tools/command_line/compute.h"
#include "tools/generation/tokenizer.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

struct Prompt {
  std::optional<std::string> text;
  std::vector<int64_t> tokens;
};

struct Continuation {
  std::vector<int64_t> tokens;
  bool reached_eos = false;
};

void check_prompt(const std::vector<int64_t>& tokens, int64_t n_new, const DecoderConfig& config) {
  Complaints complaints;
  if (tokens.empty())
    complaints.add("the prompt has no tokens, and a model continues at least one");
  const auto length = static_cast<int64_t>(tokens.size());
  if (length > config.max_seq_len - n_new) {
    complaints.add(c10::str("the prompt's ", length, " tokens and --max-new-tokens (", n_new,
                            ") are more than the model's context (", config.max_seq_len, ")"));
  }
  for (const int64_t id : tokens) {
    if (id >= 0 && id < config.vocab_size) continue;
    complaints.add(c10::str("token ", id, " is not in the model's vocabulary (0 to ",
                            config.vocab_size - 1, ")"));
  }
  complaints.throw_if_any("generate", "Change the prompt or --max-new-tokens.",
                          ExitCode::kBadRequest);
}

Continuation continue_prompt(Decoder& model, const std::vector<int64_t>& tokens, int64_t n_new,
                             const Sampling& sampling, uint64_t seed,
                             const std::vector<int64_t>& eos) {
  Continuation continuation;
  generate(model, torch::tensor(tokens).unsqueeze(0), n_new, sampling, {seed},
           [&](const torch::Tensor& next) {
             const auto id = next.item<int64_t>();
             continuation.reached_eos = std::find(eos.begin(), eos.end(), id) != eos.end();
             continuation.tokens.push_back(id);
             return !continuation.reached_eos;
           });
  return continuation;
}

void print_json(const std::vector<int64_t>& prompt, const Continuation& continuation,
                const std::optional<std::string>& text) {
  nlohmann::ordered_json json;
  json["prompt_tokens"] = prompt;
  json["tokens"] = continuation.tokens;
  json["text"] = text ? nlohmann::ordered_json(*text) : nlohmann::ordered_json();
  json["stopped_by"] = continuation.reached_eos ? "eos" : "length";
  std::cout << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
}

}  // namespace

ExitCode run_generate(const std::vector<std::string>& arguments) {
  fs::path model_path;
  Prompt prompt;
  int64_t n_new = 64, seed = 0;
  Sampling sampling;
  Compute compute;
  bool as_json = false;
  CommandLine line({.verb = "generate",
                    .usage = "--model MODEL (--prompt TEXT or --tokens 1,2,3) [options]",
                    .summary = "Continues a prompt; prints the continuation, as text or as ids.",
                    .example = "regroup generate --model runs/gqa2 --prompt 'def main(' "
                               "--temperature 0.8 --top-p 0.95"});
  line.add("model", &model_path, "the model").shown_as("MODEL").required();
  line.add("prompt", &prompt.text, "a text; needs tokenizer.json in the model's folder")
      .shown_as("TEXT")
      .may_be_empty();
  line.add("tokens", &prompt.tokens, "the prompt as ids", at_least(0));
  line.add("max-new-tokens", &n_new, "most tokens to add; eos ends earlier", at_least(1));
  line.add("temperature", &sampling.temperature,
           "0 takes the most likely token, 1 draws from the model's distribution", at_least(0));
  line.add("top-k", &sampling.top_k, "draw among the k most likely tokens", at_least(1));
  line.add("top-p", &sampling.top_p, "draw among the most likely tokens that together reach p",
           Limits{0, 1, false});
  line.add("min-p", &sampling.min_p, "draw among tokens at least p times as likely as the first",
           between(0, 1));
  line.add("repetition-penalty", &sampling.repetition_penalty,
           "above 1, tokens that were there already are less likely", between(0.01, 100));
  line.add("seed", &seed, "seed of the draws", at_least(0));
  compute.declare_on(line);
  line.add_flag("json", &as_json, "prints JSON, for programs");
  if (!line.parse(arguments)) return ExitCode::kDone;
  if (line.given("prompt") == line.given("tokens")) {
    throw request_error("generate", "needs either --prompt or --tokens",
                        "See `regroup generate --help`.");
  }

  const auto folder = ModelFolder::open(model_path);
  std::optional<Tokenizer> tokenizer;
  if (prompt.text) tokenizer.emplace(folder.path());
  const auto tokens = tokenizer ? tokenizer->encode(*prompt.text) : prompt.tokens;
  check_prompt(tokens, n_new, folder.config());
  const auto eos = generation_eos_ids(folder.path());
  auto model = load_decoder(folder, compute.use());
  const auto continuation =
      continue_prompt(model, tokens, n_new, sampling, static_cast<uint64_t>(seed), eos);
  const auto text =
      tokenizer ? std::optional(tokenizer->decode(continuation.tokens)) : std::nullopt;
  if (as_json) {
    print_json(tokens, continuation, text);
  } else {
    std::cout << text.value_or(c10::str(c10::Join(",", continuation.tokens))) << "\n";
  }
  return ExitCode::kDone;
}

}  // namespace regroup
