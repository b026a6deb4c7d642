// framework/process/signals.h: SIGINT and SIGTERM, which end the process after it has cleaned up,
// or are a request to stop that a loop checks between steps.
#pragma once

#include <signal.h>

#include <functional>

namespace regroup {

/// From now on SIGINT and SIGTERM, outside of a StopSignals, end the process: a separate thread
/// calls last_words, and exits with code 130. Call it once, before other threads start.
void end_on_signals(std::function<void()> last_words);

/// Returns at once, unless such a signal has come: then it waits for the end of the process, so
/// that no failure is reported that only last_words caused.
void wait_if_ending();

/// During its lifetime, the first SIGINT or SIGTERM only sets stop_requested(). A second one ends
/// the process at once with exit code 130 if it comes at least two seconds later; an earlier one is
/// ignored, because launchers such as torchrun forward signals that the terminal has already sent
/// to their processes.
class StopSignals {
 public:
  /// message: printed on stderr by the first signal, at once; a literal. Empty: none.
  explicit StopSignals(const char* message = "");
  /// Restores the previous signal handlers.
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  struct sigaction before_int_ {};
  struct sigaction before_term_ {};
};

/// True after a signal during the lifetime of the current StopSignals.
bool stop_requested();

}  // namespace regroup
