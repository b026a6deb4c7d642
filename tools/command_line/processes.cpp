#include "tools/command_line/processes.h"

#include <torch/version.h>

#include <cstdlib>

#include "framework/errors/failure.h"
#include "framework/process/processors.h"
#include "framework/progress/console.h"

namespace regroup {
namespace {

constexpr std::chrono::seconds kJoinTimeout{300};  // when the command line could not be parsed

/// Prints the verdict in one of the processes, and ends this one.
[[noreturn]] void end_by(const Verdict& verdict, Peers& peers) {
  if (peers.should_report(verdict)) {
    print_failure(verdict.message, verdict.exit_code);
    peers.mark_reported();
  }
  peers.leave();
  // Without destructors, because these may wait for processes that are gone.
  std::_Exit(static_cast<int>(verdict.exit_code));
}

ExitCode run_among_peers(const Launch& launch,
                         const std::function<std::optional<ProcessOptions>()>& parse,
                         const std::function<ExitCode(World&)>& work) {
  std::optional<ProcessOptions> options;
  std::exception_ptr problem;
  try {
    options = parse();
    if (!options) return ExitCode::kDone;
  } catch (...) {
    problem = std::current_exception();  // probably on all processes; the peers decide which one
                                         // prints it
  }
  if (!launch.is_rank_0()) console().set_verbosity(Verbosity::kNothing);
  const auto timeout = options ? std::chrono::seconds(options->dist.timeout_s) : kJoinTimeout;
  std::optional<Peers> joined;
  try {
    joined.emplace(launch, timeout);
  } catch (const PeerFailure&) {
    return ExitCode::kFailed;  // another process prints why
  }
  auto& peers = *joined;
  World world;  // outside the try: destroying its groups would wait for processes that are gone
  try {
    if (problem) std::rethrow_exception(problem);
    peers.watch(timeout, [&](const Verdict& verdict) { end_by(verdict, peers); });
    options->settings["program"] =
        c10::str("Regroup ", REGROUP_VERSION, ", LibTorch ", TORCH_VERSION);
    peers.require_equal("settings", options->settings);
    world = World(peers, options->dist, options->device);
    use_default_threads(world.local_size());
    return work(world);
  } catch (...) {
    end_by(peers.diagnose(describe_failure(std::current_exception())), peers);
  }
}

}  // namespace

ExitCode run_on_all_ranks(const std::function<std::optional<ProcessOptions>()>& parse,
                          const std::function<ExitCode(World&)>& work) {
  if (const auto launch = read_launch()) return run_among_peers(*launch, parse, work);
  if (!parse()) return ExitCode::kDone;
  World alone;
  return work(alone);
}

}  // namespace regroup
