#include "tools/command_line/processes.h"

#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "framework/errors/failure.h"
#include "framework/process/processors.h"
#include "framework/process/signals.h"
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

std::string node_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// The ranks that share this rank's processors: all of its node, or fewer where the launcher binds
/// ranks to processors, as srun and mpirun do.
int64_t n_ranks_on_these_processors(World& world) {
  std::vector<double> keys(static_cast<size_t>(world.size()), 0.0);
  auto& own_key = keys[static_cast<size_t>(world.rank())];
  own_key = processors_key(node_name(), allowed_processors());
  const auto all = world.sum(keys);
  return std::count(all.begin(), all.end(), own_key);
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
    use_default_threads(n_ranks_on_these_processors(world));
    return work(world);
  } catch (...) {
    wait_if_ending();
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
