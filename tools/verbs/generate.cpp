#include "models/generate.h"

#include <unistd.h>

#include <future>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "framework/errors/error.h"
#include "framework/progress/console.h"
#include "framework/progress/progress.h"
#include "framework/text/growing_text.h"
#include "models/generation_config.h"
#include "models/model_folder.h"
#include "tools/command_line/compute.h"
#include "tools/generation/continuation.h"
#include "tools/generation/prompts.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostAtOnce = 16;  // bounds the K/V cache
constexpr int kIndented = 2, kOneLine = -1;

/// The sampling options that were given.
struct SamplingOptions {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;

  Sampling or_else(Sampling sampling) const {
    if (temperature) sampling.temperature = *temperature;
    if (repetition_penalty) sampling.repetition_penalty = *repetition_penalty;
    if (top_k) sampling.top_k = top_k;
    if (top_p) sampling.top_p = top_p;
    if (min_p) sampling.min_p = min_p;
    return sampling;
  }
};

struct Request {
  fs::path model;
  std::optional<std::string> text;
  std::optional<fs::path> file;
  std::vector<int64_t> tokens;
  bool chat = false;
  int64_t n_new = 64, seed = 0;
  SamplingOptions sampling;
  std::vector<std::string> stops;
  Compute compute;
  bool as_json = false;
};

void declare_options(CommandLine& line, Request& request) {
  line.add("model", &request.model, "the model").shown_as("MODEL").required();
  line.add("prompt", &request.text, "a text; needs tokenizer.json in the model's folder")
      .may_be_empty();
  line.add("prompts", &request.file,
           "an object on each line, with \"prompt\" or \"tokens\" or (--chat) \"messages\"")
      .shown_as("FILE.jsonl");
  line.add("tokens", &request.tokens, "the prompt as ids", at_least(0));
  line.add_flag("chat", &request.chat, "the prompt is a user's message in the chat template");
  line.add("max-new-tokens", &request.n_new, "most tokens to add; eos ends earlier", at_least(1));
  line.add("stop", &request.stops, "end before this text");
  auto& sampling = request.sampling;
  line.add("temperature", &sampling.temperature,
           "0 takes the most likely token, 1 draws from the model's distribution", at_least(0));
  line.add("top-k", &sampling.top_k, "draw among the k most likely tokens", at_least(1));
  line.add("top-p", &sampling.top_p, "draw among the most likely tokens that together reach p",
           Limits{0, 1, false});
  line.add("min-p", &sampling.min_p, "draw among tokens at least p times as likely as the first",
           between(0, 1));
  line.add("repetition-penalty", &sampling.repetition_penalty,
           "above 1, tokens that were there already are less likely", between(0.01, 100));
  line.add("seed", &request.seed, "seed of the draws; line N of a file has seed + N - 1",
           at_least(0));
  request.compute.declare_on(line);
  line.add_flag("json", &request.as_json, "prints JSON, for programs; --prompts always does");
  line.add_quiet();
}

void check_sources(const CommandLine& line) {
  const int n_sources = line.given("prompt") + line.given("prompts") + line.given("tokens");
  const char* see_help = "See `regroup generate --help`.";
  if (n_sources != 1)
    throw request_error("generate", "needs one of --prompt, --prompts and --tokens", see_help);
  if (line.given("chat") && line.given("tokens"))
    throw request_error("generate", "--chat makes a chat of texts, not of --tokens", see_help);
}

std::vector<Prompt> read_prompts(const Request& request, Tokenizer& tokenizer) {
  if (request.file) return read_prompts(*request.file, request.chat, tokenizer);
  Prompt prompt{.where = "the prompt", .tokens = request.tokens};
  prompt.is_text = request.text.has_value();
  if (prompt.is_text) prompt.tokens = encode_prompt(*request.text, request.chat, tokenizer);
  return {prompt};
}

void check_prompts(const std::vector<Prompt>& prompts, int64_t n_new, const DecoderConfig& config) {
  Complaints complaints;
  for (const auto& prompt : prompts) {
    if (prompt.tokens.empty())
      complaints.add(prompt.where + " has no tokens, and a model continues at least one");
    const auto length = static_cast<int64_t>(prompt.tokens.size());
    if (length > config.max_seq_len - n_new) {
      complaints.add(c10::str(prompt.where, " has ", length, " tokens; with --max-new-tokens (",
                              n_new, ") these are more than the model's context (",
                              config.max_seq_len, ")"));
    }
    for (const int64_t id : prompt.tokens) {
      if (id >= 0 && id < config.vocab_size) continue;
      complaints.add(c10::str(prompt.where, " has token ", id,
                              ", which is not in the model's vocabulary (0 to ",
                              config.vocab_size - 1, ")"));
    }
  }
  complaints.throw_if_any("generate", "Change the prompt or --max-new-tokens.",
                          ExitCode::kBadRequest);
}

/// Text on a terminal that appears as it grows.
class LiveText {
 public:
  void show(std::string_view text) {
    const bool was_rewritten = !text.starts_with(shown_);  // few decoders change what they said
    if (was_rewritten) {
      std::cout << "\n";
      shown_.clear();
    }
    std::cout << text.substr(shown_.size()) << std::flush;
    shown_ = text;
  }

 private:
  std::string shown_;
};

/// The folder's, with what was given instead.
GenerationConfig generation_config(const Request& request, const fs::path& folder) {
  auto config = read_generation_config(folder);
  if (!config.not_applied.empty()) {
    warn(c10::str("generation_config.json has ", c10::Join(", ", config.not_applied),
                  ", which Regroup does not apply"));
  }
  config.sampling = request.sampling.or_else(config.sampling);
  if (!request.stops.empty()) config.stop_texts = request.stops;
  if (config.sampling.temperature > 0 && !request.sampling.temperature) {
    note(
        c10::str("draws at temperature ", config.sampling.temperature,
                 ", as generation_config.json says; --temperature 0 takes the most likely tokens"));
  }
  return config;
}

std::string text_or_ids(const Continuation& continuation) {
  return continuation.text().value_or(c10::str(c10::Join(",", continuation.tokens())));
}

void print_text(Generator& generator, const Prompt& prompt) {
  const bool streams = isatty(STDOUT_FILENO);
  LiveText live;
  const auto continuations = continue_prompts(generator, {&prompt}, [&](const auto& so_far) {
    if (streams) live.show(settled_part(text_or_ids(so_far[0]), generator.endings.stops));
  });
  const auto text = text_or_ids(continuations[0]);
  live.show(text);
  std::cout << "\n";
  if (text.empty()) note("the model ended the text before it said anything");
}

std::string result_as_json(const Prompt& prompt, const Continuation& continuation, int indent) {
  auto json = prompt.other_keys;
  const auto text = continuation.text();
  json["prompt_tokens"] = prompt.tokens;
  json["tokens"] = continuation.tokens();
  json["text"] = text ? nlohmann::ordered_json(*text) : nlohmann::ordered_json();
  json["stopped_by"] = continuation.stopped_by();
  return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void print_json(Generator& generator, const Prompt& prompt) {
  const auto continuations = continue_prompts(generator, {&prompt}, [](const auto&) {});
  std::cout << result_as_json(prompt, continuations[0], kIndented) << "\n";
}

/// Prints each line when those before it are there.
void print_json_lines(Generator& generator, const std::vector<Prompt>& prompts) {
  std::optional<ProgressLine> progress;
  if (!isatty(STDOUT_FILENO)) {  // there, the lines show how far it is
    progress.emplace(ProgressOptions{.label = "generate",
                                     .total = static_cast<int64_t>(prompts.size()),
                                     .round = "prompt",
                                     .unit = "tokens"});
  }
  std::vector<std::string> lines(prompts.size());
  size_t n_printed = 0;
  int64_t n_done = 0, n_tokens = 0;
  for (const auto& indices : equal_lengths(prompts, kMostAtOnce)) {
    PromptBatch batch;
    for (const size_t i : indices) batch.push_back(&prompts[i]);
    const auto continuations = continue_prompts(generator, batch, [&](const auto&) {
      n_tokens += static_cast<int64_t>(batch.size());
      if (progress) progress->update(n_done, static_cast<double>(n_tokens));
    });
    for (size_t i = 0; i < batch.size(); ++i)
      lines[indices[i]] = result_as_json(*batch[i], continuations[i], kOneLine);
    n_done += static_cast<int64_t>(batch.size());
    if (progress) progress->update(n_done, static_cast<double>(n_tokens));
    while (n_printed < lines.size() && !lines[n_printed].empty())
      std::cout << lines[n_printed++] << "\n";
    if (!std::cout.flush()) return;  // the caller reports it
  }
}

}  // namespace

ExitCode run_generate(const std::vector<std::string>& arguments) {
  Request request;
  CommandLine line({.verb = "generate",
                    .usage = "--model MODEL (--prompt TEXT, --prompts FILE.jsonl or --tokens "
                             "1,2,3) [options]",
                    .summary = "Continues a prompt; prints the continuation, as text or as ids. "
                               "With --prompts, prints a JSON\nobject a line, with the other keys "
                               "of its prompt, in the order of the file.\n\nThe defaults of "
                               "sampling and of --stop are those of the model's "
                               "generation_config.json;\nwithout do_sample there, the most likely "
                               "token is taken.",
                    .example = "regroup generate --model runs/gqa2 --prompt 'def main(' "
                               "--temperature 0.8 --top-p 0.95\n"
                               "regroup generate --model runs/gqa2 --prompts prompts.jsonl "
                               "--quiet > results.jsonl"});
  declare_options(line, request);
  if (!line.parse(arguments)) return ExitCode::kDone;
  check_sources(line);

  const auto folder = ModelFolder::open(request.model);
  Tokenizer tokenizer(folder.path());
  const auto config = generation_config(request, folder.path());
  // Python starts and tokenizes while this thread loads the weights.
  auto reading = std::async(std::launch::async, [&] {
    if (!config.stop_texts.empty()) tokenizer.decode({});  // refuses now what it cannot do later
    auto prompts = read_prompts(request, tokenizer);
    check_prompts(prompts, request.n_new, folder.config());
    return prompts;
  });
  auto model = load_decoder(folder, request.compute.use());
  const auto prompts = reading.get();
  Generator generator{.tokenizer = tokenizer,
                      .endings = {config.eos_ids, config.stop_texts},
                      .model = std::move(model),
                      .sampling = config.sampling,
                      .n_new = request.n_new,
                      .seed = static_cast<uint64_t>(request.seed)};
  if (request.file) {
    print_json_lines(generator, prompts);
  } else if (request.as_json) {
    print_json(generator, prompts[0]);
  } else {
    print_text(generator, prompts[0]);
  }
  return ExitCode::kDone;
}

}  // namespace regroup
