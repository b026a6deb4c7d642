#include "tools/processes.h"

#include <cstdlib>

#include "framework/console.h"
#include "tools/failure.h"

namespace regroup {
namespace {

constexpr std::chrono::seconds kJoining{300};  // where the command line does not say

ExitCode run_among_peers(const Launch& launch,
                         const std::function<std::optional<Together>()>& parse,
                         const std::function<ExitCode(World&)>& work) {
  std::optional<Together> together;
  std::exception_ptr problem;
  try {
    together = parse();
    if (!together) return ExitCode::kDone;
  } catch (const Error&) {
    problem = std::current_exception();  // all are likely to have it, and one is to say so
  }
  if (!launch.is_first()) console().set_verbosity(Verbosity::kNothing);
  Peers peers(launch, together ? std::chrono::seconds(together->dist.timeout_s) : kJoining);
  World world;  // outlives what fails: taking down its groups would wait for those who are gone
  try {
    if (problem) std::rethrow_exception(problem);
    world = World(peers, together->dist, together->device);
    return work(world);
  } catch (...) {
    const auto failure = describe_failure(std::current_exception());
    if (const auto message = peers.settle(failure)) print_failure(*message, failure.exit_code);
    peers.leave();
    std::_Exit(static_cast<int>(failure.exit_code));
  }
}

}  // namespace

ExitCode run_together(const std::function<std::optional<Together>()>& parse,
                      const std::function<ExitCode(World&)>& work) {
  if (const auto launch = read_launch()) return run_among_peers(*launch, parse, work);
  if (!parse()) return ExitCode::kDone;
  World alone;
  return work(alone);
}

}  // namespace regroup
