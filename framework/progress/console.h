// framework/progress/console.h: lines on stderr, with at most one live line at the bottom.
#pragma once

#include <mutex>
#include <string>

namespace regroup {

enum class Verbosity { kAll, kWarnings, kNothing };

/// Writes to one file descriptor from any thread. On a terminal the live line is redrawn in place,
/// and other lines go above it. A closed pipe is not an error: the output is dropped.
class Console {
 public:
  Console(int descriptor, bool is_terminal) : descriptor_(descriptor), is_terminal_(is_terminal) {}

  bool is_terminal() const { return is_terminal_; }
  /// kWarnings silences note() and progress; kNothing also silences warn().
  void set_verbosity(Verbosity verbosity);
  bool shows_progress();

  void note(const std::string& text);
  void warn(const std::string& text);
  /// Redraws the live line, cut to the terminal's width. Only for terminals.
  void live(const std::string& text);
  /// Keeps the live line on screen and starts a new one below it.
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

/// A line on stderr that --quiet silences.
void note(const std::string& text);

/// "warning: ..." on stderr.
void warn(const std::string& text);

/// note() and warn() for what a program finds every time it opens a file: they show a text once.
void note_once(const std::string& text);
void warn_once(const std::string& text);

}  // namespace regroup
