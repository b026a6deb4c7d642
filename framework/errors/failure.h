// framework/errors/failure.h: turns any exception into one short block on stderr.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <stdexcept>
#include <string>

#include "framework/errors/error.h"

namespace regroup {

/// A collective or a wait failed because of another process; Peers::diagnose works out which one.
class PeerFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Why a process ends.
struct Failure {
  std::string message;
  ExitCode exit_code = ExitCode::kFailed;
  bool is_of_peer = false;  // a PeerFailure: another process is the cause
};

/// True for the error of an allocation, on the CPU or a GPU.
bool is_out_of_memory(const c10::Error& error);

/// The message for an exception, with advice where there is some.
Failure describe_failure(std::exception_ptr problem);

/// Prints "regroup: error: ..." on stderr and returns the exit code.
ExitCode print_failure(const std::string& message, ExitCode code);

}  // namespace regroup
