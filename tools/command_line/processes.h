// tools/command_line/processes.h: a verb that a launcher may have started several times, as one
// program.
#pragma once

#include <torch/types.h>

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "framework/distributed/world.h"
#include "framework/errors/error.h"

namespace regroup {

/// What a verb asks of its processes.
struct Together {
  DistOptions dist;
  torch::Device device;
  std::map<std::string, std::string> request;  // in words; the same on all, or it is refused
};

/// Calls parse, which reads the command line and gives nothing where it only asks for help, then
/// work: in a world of one, or together with the processes that the launcher started. Of several
/// only the first speaks, and when it goes wrong on any, the lowest that is left says so for all.
ExitCode run_together(const std::function<std::optional<Together>()>& parse,
                      const std::function<ExitCode(World&)>& work);

}  // namespace regroup
