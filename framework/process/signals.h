// framework/process/signals.h: SIGINT and SIGTERM as a wish to stop, which a loop reads between
// steps.
#pragma once

#include <signal.h>

namespace regroup {

/// While it lives, the first SIGINT or SIGTERM only sets stop_requested(). A later one, two seconds
/// or more after the first, ends the process at once with exit code 130; an earlier one is taken
/// for an echo, since launchers such as torchrun pass on to their processes what the terminal has
/// already sent them.
class StopSignals {
 public:
  StopSignals();
  /// Restores what the signals did before.
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  struct sigaction before_int_ {};
  struct sigaction before_term_ {};
};

/// True once a stop was asked for within the present StopSignals.
bool stop_requested();

}  // namespace regroup
