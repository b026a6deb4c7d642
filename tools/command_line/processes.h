// tools/command_line/processes.h: runs a verb in one process, or in all that a launcher started.
#pragma once

#include <torch/types.h>

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "framework/distributed/world.h"
#include "framework/errors/error.h"

namespace regroup {

/// How the processes of a verb work together.
struct ProcessOptions {
  DistOptions dist;
  torch::Device device;
  std::map<std::string, std::string> settings;  // must be equal on all processes
};

/// Calls parse, which reads the command line and returns nothing where that only asks for help, and
/// then work, in a World of the processes that the launcher started or of this one. Only rank 0
/// prints progress. When any process fails, the lowest rank that is alive prints why.
ExitCode run_on_all_ranks(const std::function<std::optional<ProcessOptions>()>& parse,
                          const std::function<ExitCode(World&)>& work);

}  // namespace regroup
