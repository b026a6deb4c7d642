// framework/progress/console.h: lines on stderr, with at most one live line below them.
#pragma once

#include <mutex>
#include <string>

namespace regroup {

enum class Verbosity { kAll, kWarnings, kNothing };

/// Writes to one file descriptor from any thread. On a terminal the live line is redrawn in place,
/// and lines written meanwhile go above it. A closed pipe is not an error: the work goes on
/// unheard.
class Console {
 public:
  Console(int descriptor, bool is_terminal) : descriptor_(descriptor), is_terminal_(is_terminal) {}

  bool is_terminal() const { return is_terminal_; }
  /// kWarnings silences note() and progress, kNothing warn() too.
  void set_verbosity(Verbosity verbosity);
  bool shows_progress();

  void note(const std::string& text);
  void warn(const std::string& text);
  /// Redraws the live line, cut to the terminal's width; only for terminals.
  void live(const std::string& text);
  /// Leaves the live line standing and starts a new one below.
  void end_live();

 private:
  void write_line(const std::string& text);

  const int descriptor_;
  const bool is_terminal_;
  std::mutex mutex_;
  Verbosity verbosity_ = Verbosity::kAll;
  std::string live_;
};

/// The console on stderr.
Console& console();

/// A line on stderr for people who follow the work; --quiet silences it.
void note(const std::string& text);

/// "warning: ..." on stderr.
void warn(const std::string& text);

}  // namespace regroup
