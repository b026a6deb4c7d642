// tools/failure.h: what a failure looks like to the user: one short block on stderr, whatever was
// thrown.
#pragma once

#include <exception>
#include <string>

#include "framework/distributed/peers.h"
#include "framework/error.h"

namespace regroup {

/// In the words of the block on stderr, with what to do where that is known.
Failure describe_failure(std::exception_ptr problem);

/// "regroup: error: ..." on stderr; gives the exit code.
ExitCode print_failure(const std::string& message, ExitCode code);

}  // namespace regroup
