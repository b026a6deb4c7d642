// framework/errors/error.h: the error type for everything that a user can cause, and the program's
// exit codes.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace regroup {

enum class ExitCode : int {
  kDone = 0,
  kFailed = 1,        // the work failed: bad file, out of memory, diverged
  kBadRequest = 2,    // the request was wrong: unknown key, bad value, output exists
  kInterrupted = 130  // SIGINT or SIGTERM, after a checkpoint was saved
};

/// A problem that a user can cause and fix. The message is one line: "where: what. What to do."
class Error : public std::runtime_error {
 public:
  /// where: the file, key or tensor; what: the problem with its numbers; what_to_do: a sentence.
  Error(const std::string& where, const std::string& what, const std::string& what_to_do,
        ExitCode exit_code = ExitCode::kFailed);

  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

/// What to do about a file whose contents contradict themselves.
constexpr const char* kDamagedFile =
    "The file is damaged or was not written completely; get it again.";

/// An Error whose exit code is kBadRequest.
Error request_error(const std::string& where, const std::string& what,
                    const std::string& what_to_do);

/// Collects problems so that a user sees all of them at once.
class Complaints {
 public:
  void add(const std::string& complaint) { complaints_.push_back(complaint); }
  bool empty() const { return complaints_.empty(); }
  /// Throws one Error that lists the first five complaints and counts the rest; does nothing when
  /// empty.
  void throw_if_any(const std::string& where, const std::string& what_to_do,
                    ExitCode exit_code = ExitCode::kFailed) const;

 private:
  std::vector<std::string> complaints_;
};

}  // namespace regroup
