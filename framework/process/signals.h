// framework/process/signals.h: SIGINT and SIGTERM as a request to stop, which a loop checks between
// steps.
#pragma once

#include <signal.h>

namespace regroup {

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
