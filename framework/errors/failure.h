// framework/errors/failure.h: what a failure looks like to the user: one short block on stderr,
// whatever was thrown.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <stdexcept>
#include <string>

#include "framework/errors/error.h"

namespace regroup {

/// A collective, or waiting for a peer, did not come to its end. Who is to blame is what
/// Peers::settle finds out.
class PeerFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// How a process ended that could not go on.
struct Failure {
  std::string message;
  ExitCode exit_code = ExitCode::kFailed;
  bool is_of_peer = false;  // a PeerFailure: another process is to blame
};

/// Of this machine or a GPU.
bool is_out_of_memory(const c10::Error& error);

/// In the words of the block on stderr, with what to do where that is known.
Failure describe_failure(std::exception_ptr problem);

/// "regroup: error: ..." on stderr; gives the exit code.
ExitCode print_failure(const std::string& message, ExitCode code);

}  // namespace regroup
