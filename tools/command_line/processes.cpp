#include "tools/command_line/processes.h"

#include <torch/version.h>

#include <cstdlib>

#include "framework/errors/failure.h"
#include "framework/progress/console.h"

namespace regroup {
namespace {

constexpr std::chrono::seconds kJoining{300};  // where the command line does not say

/// One process tells what happened.
[[noreturn]] void end_by(const Verdict& verdict, Peers& peers) {
  if (peers.is_to_tell(verdict)) {
    print_failure(verdict.message, verdict.exit_code);
    peers.told();
  }
  peers.leave();
  // No destructors: what they wait for may never come.
  std::_Exit(static_cast<int>(verdict.exit_code));
}

ExitCode run_among_peers(const Launch& launch,
                         const std::function<std::optional<Together>()>& parse,
                         const std::function<ExitCode(World&)>& work) {
  std::optional<Together> together;
  std::exception_ptr problem;
  try {
    together = parse();
    if (!together) return ExitCode::kDone;
  } catch (...) {
    problem = std::current_exception();  // all are likely to have it, and one is to say so
  }
  if (!launch.is_first()) console().set_verbosity(Verbosity::kNothing);
  const auto timeout = together ? std::chrono::seconds(together->dist.timeout_s) : kJoining;
  std::optional<Peers> joined;
  try {
    joined.emplace(launch, timeout);
  } catch (const PeerFailure&) {
    return ExitCode::kFailed;  // another process says so
  }
  auto& peers = *joined;
  World world;  // outlives what fails: taking down its groups would wait for those who are gone
  try {
    if (problem) std::rethrow_exception(problem);
    peers.guard(timeout, [&](const Verdict& verdict) { end_by(verdict, peers); });
    together->request["program"] =
        c10::str("Regroup ", REGROUP_VERSION, ", LibTorch ", TORCH_VERSION);
    peers.require_alike("request", together->request);
    world = World(peers, together->dist, together->device);
    return work(world);
  } catch (...) {
    end_by(peers.settle(describe_failure(std::current_exception())), peers);
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
