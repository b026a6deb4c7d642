// tools/regroup.cpp: the program that the launcher becomes: which verb runs, and what a failure
// looks like.
#include <signal.h>

#include <exception>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "framework/errors/error.h"
#include "framework/errors/failure.h"
#include "framework/files/atomic_write.h"
#include "framework/process/processors.h"
#include "framework/process/signals.h"
#include "framework/progress/console.h"
#include "framework/tensors/memory.h"
#include "framework/text/human.h"
#include "framework/text/nearest_name.h"
#include "tools/verbs/overview.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

// In the order of kVerbs.
constexpr VerbFunction kFunctions[] = {run_pretrain, run_uptrain,  run_convert, run_eval,
                                       run_score,    run_generate, run_export,  run_bench,
                                       run_inspect,  run_plan};
static_assert(std::size(kFunctions) == std::size(kVerbs));

ExitCode run_verb(const std::string& name, const std::vector<std::string>& arguments) {
  std::vector<std::string> known;
  for (size_t i = 0; i < std::size(kVerbs); ++i) {
    if (name == kVerbs[i].name) return kFunctions[i](arguments);
    known.push_back(kVerbs[i].name);
  }
  throw request_error(abbreviated(name), "unknown verb" + did_you_mean(name, known),
                      "See `regroup --help` for all verbs.");
}

ExitCode run(const std::vector<std::string>& words) {
  if (words.empty()) throw request_error("command line", "names no verb", "See `regroup --help`.");
  if (words[0] == "--version") {
    std::cout << version_text();
    return ExitCode::kDone;
  }
  return run_verb(words[0], {words.begin() + 1, words.end()});
}

/// stdout carries the result, so a full disk behind it is a failure.
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
    wait_if_ending();
    const auto failure = describe_failure(std::current_exception());
    return print_failure(failure.message, failure.exit_code);
  }
}

/// What a signal leaves behind: whole files and folders, and a word about it.
void end_interrupted(const std::string& verb) {
  const bool was_writing = remove_unfinished_and_block_commits();
  const bool has_run = verb == "pretrain" || verb == "uptrain";
  if (has_run) return note("interrupted; continue with --resume");
  note(was_writing ? "interrupted; the unfinished output was removed" : "interrupted");
}

}  // namespace
}  // namespace regroup

int main(int argc, char** argv) {
  regroup::keep_memory_between_steps();
  regroup::use_default_threads();
  signal(SIGPIPE, SIG_IGN);  // a reader that leaves must not end a training run
  const std::vector<std::string> words(argv + 1, argv + argc);
  regroup::end_on_signals(
      [verb = words.empty() ? "" : words[0]] { regroup::end_interrupted(verb); });
  return static_cast<int>(regroup::run_and_report(words));
}
