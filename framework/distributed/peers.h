// framework/distributed/peers.h: detects failed and dead processes. Each process posts a notice to
// the launcher's store and renews it twice a second. When a collective fails, the processes work
// out from the notices which rank failed or died, and one of them reports it.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "framework/distributed/board.h"
#include "framework/distributed/launch.h"
#include "framework/errors/failure.h"

namespace regroup {

/// Why the run ends: the ranks that are gone, or the failure of one rank.
struct Verdict {
  std::string message;
  ExitCode exit_code;
  int reporter = 0;  // the rank that prints the message: the lowest one that is alive and knows it
};

class Peers {
 public:
  /// Returns once every process has posted its notice. Throws Error where the store cannot be
  /// served or reached. When processes are missing after `timeout`, the lowest rank that has joined
  /// throws an Error that names them; the other ranks throw PeerFailure.
  Peers(const Launch& launch, std::chrono::seconds timeout);
  /// Calls leave().
  ~Peers();
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  const Launch& launch() const { return launch_; }
  /// Unique to this launch of the processes: an elastic launcher may start them several times.
  const std::string& launch_id() const;
  /// For the rendezvous of a c10d group. `group` separates the keys of one group from another's.
  c10::intrusive_ptr<c10d::Store> store(const std::string& group) const;

  /// Posts a value that other processes can await until this process withdraws it.
  void post(const std::string& name, const std::string& value);
  void withdraw(const std::string& name);
  /// Waits until `rank` has posted the name, and returns the value. Throws PeerFailure when any
  /// process fails or dies meanwhile.
  std::string await(int rank, const std::string& name) const;

  /// Throws a request Error on every rank, which names keys, ranks and values, where a value
  /// differs from that of rank 0. Every process must call it. name: unique to this call.
  void require_equal(const std::string& name, const std::map<std::string, std::string>& values);

  /// Reports to the other processes that this one failed.
  void report_failure(const Failure& failure);
  /// Reports this process's failure and works out, in at most 5 seconds, what ended the run.
  Verdict diagnose(const Failure& failure);
  /// Starts a thread for the case that this process hangs in a collective whose engine reports no
  /// error. When another process has failed or been gone for `patience`, it diagnoses that and
  /// calls end, which must not return.
  void watch(std::chrono::seconds patience, std::function<void(const Verdict&)> end);
  /// True if this process must print the verdict: it is the reporter, and no other process has
  /// reported. Other processes wait here up to a second for the report, because a launcher kills
  /// all processes when the first one exits.
  bool should_report(const Verdict& verdict) const;
  /// The reporter must call it after it has printed the verdict.
  void mark_reported();
  /// Posts that this process is done. The process that serves the store waits up to 2 seconds for
  /// the processes that still need it.
  void leave();

 private:
  Launch launch_;
  Verdict find_cause(const Failure& failure);

  std::unique_ptr<Board> board_;
  std::atomic<bool> is_diagnosing_ = false;
  std::jthread watcher_;
};

}  // namespace regroup
