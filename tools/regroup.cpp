// tools/regroup.cpp: the program `regroup`: which verb runs, and what a failure looks like.
#include <signal.h>

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "framework/errors/error.h"
#include "framework/errors/failure.h"
#include "framework/tensors/memory.h"
#include "framework/text/human.h"
#include "framework/text/nearest_name.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

struct Verb {
  const char* name;
  const char* summary;
  VerbFunction run;
};

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> table = {
      {"pretrain", "trains a decoder from random weights", run_pretrain},
      {"uptrain", "converts an original, trains it a little, compares the two", run_uptrain},
      {"convert", "pools the K/V heads of a checkpoint", run_convert},
      {"eval", "quality and inference cost of models side by side", run_eval},
      {"score", "log-probability of every token", run_score},
      {"generate", "continues a prompt", run_generate},
      {"export", "writes a deployable model", run_export},
      {"bench", "throughput and memory of training and decoding", run_bench},
      {"inspect", "says what a file or folder is", run_inspect},
      {"plan", "what a training job will need of each GPU", run_plan},
  };
  return table;
}

std::string help_text() {
  constexpr size_t kNameColumn = 10;
  std::string text =
      "regroup VERB [options]\n\n"
      "Turns multi-head attention checkpoints into grouped-query and multi-query ones, trains them "
      "on,\n"
      "and measures what that cost.\n\n";
  for (const Verb& verb : verbs()) {
    std::string name = verb.name;
    name.resize(kNameColumn, ' ');
    text += "  " + name + verb.summary + "\n";
  }
  return text +
         "\n  regroup VERB --help   the options of a verb, with an example\n"
         "  regroup --version     versions and devices\n";
}

ExitCode run_verb(const std::string& name, const std::vector<std::string>& arguments) {
  std::vector<std::string> known;
  for (const Verb& verb : verbs()) {
    if (name == verb.name) return verb.run(arguments);
    known.push_back(verb.name);
  }
  throw request_error(abbreviated(name), "unknown verb" + did_you_mean(name, known),
                      "See `regroup --help` for all verbs.");
}

ExitCode run(const std::vector<std::string>& words) {
  if (words.empty()) throw request_error("command line", "names no verb", "See `regroup --help`.");
  if (words[0] == "--help" || words[0] == "-h") {
    std::cout << help_text();
    return ExitCode::kDone;
  }
  if (words[0] == "--version") {
    std::cout << version_text();
    return ExitCode::kDone;
  }
  return run_verb(words[0], {words.begin() + 1, words.end()});
}

/// What is written to stdout is the result: a full disk behind it is a failure.
ExitCode flush_results(ExitCode code) {
  std::cout.flush();
  if (std::cout) return code;
  return print_failure(
      "stdout: the results could not be written. Is the disk full, or the reader gone?",
      ExitCode::kFailed);
}

ExitCode run_and_report(const std::vector<std::string>& words) {
  try {
    return flush_results(run(words));
  } catch (...) {
    const auto failure = describe_failure(std::current_exception());
    return print_failure(failure.message, failure.exit_code);
  }
}

}  // namespace
}  // namespace regroup

int main(int argc, char** argv) {
  regroup::keep_memory_between_steps();
  signal(SIGPIPE, SIG_IGN);  // a reader that leaves must not end a training run
  const std::vector<std::string> words(argv + 1, argv + argc);
  return static_cast<int>(regroup::run_and_report(words));
}
