// tools/regroup.cpp: the program `regroup`: which verb runs, and what a failure looks like.
#include <signal.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include <c10/util/Exception.h>

#include "framework/error.h"
#include "framework/human.h"
#include "framework/memory.h"
#include "framework/nearest_name.h"
#include "tools/verbs.h"

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

bool is_debugging() {
  const char* wanted = std::getenv("REGROUP_DEBUG");
  return wanted && std::strcmp(wanted, "1") == 0;
}

/// One block on stderr, short whatever the message is.
ExitCode fail(std::string message, ExitCode code) {
  constexpr size_t kMostCharacters = 2900;
  if (!is_debugging() && message.size() > kMostCharacters) {
    message.resize(kMostCharacters);
    message += "...";
  }
  std::cerr << "regroup: error: " << message << std::endl;
  return code;
}

bool is_out_of_memory(const c10::Error& error) {
  const std::string message = error.what_without_backtrace();
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) ||
         message.find("can't allocate memory") != std::string::npos ||
         message.find("not enough memory") != std::string::npos;
}

ExitCode fail_out_of_memory(const std::string& message) {
  return fail(
      "out of memory: " + message +
          "\nTake a smaller batch (train.micro_batch), train.activation_checkpointing=full, "
          "--dtype bf16 or a machine with more memory.",
      ExitCode::kFailed);
}

ExitCode fail_defect(const std::string& message, const std::string& trace) {
  return fail(
      "this is a defect of Regroup: " + message +
          (is_debugging() ? "\n" + trace
                          : "\nPlease report it with the command; REGROUP_DEBUG=1 shows where."),
      ExitCode::kFailed);
}

ExitCode fail_file(const std::filesystem::filesystem_error& error) {
  return fail(error.path1().string() + ": " + error.code().message() + " (" + error.what() +
                  ")\nCheck that the path is right, its permissions, and the room on the disk.",
              ExitCode::kFailed);
}

/// What is written to stdout is the result: a full disk behind it is a failure.
ExitCode flush_results(ExitCode code) {
  std::cout.flush();
  if (std::cout) return code;
  return fail("stdout: the results could not be written. Is the disk full, or the reader gone?",
              ExitCode::kFailed);
}

ExitCode run_and_report(const std::vector<std::string>& words) {
  try {
    return flush_results(run(words));
  } catch (const Error& error) {
    return fail(error.what(), error.exit_code());
  } catch (const c10::Error& error) {
    if (is_out_of_memory(error)) return fail_out_of_memory(error.what_without_backtrace());
    return fail_defect(error.what_without_backtrace(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return fail_file(error);
  } catch (const std::bad_alloc&) {
    return fail_out_of_memory("the system refused more");
  } catch (const std::exception& error) {
    return fail_defect(error.what(), "(no trace: not an error of LibTorch)");
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
