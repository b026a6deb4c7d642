// framework/distributed/peers.h: knowing how the other processes fare. Each posts a notice, renewed
// every moment, in the launcher's store; so a collective that fails can be told for what it is, and
// one process says for all of them who is gone.
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

/// What ended the run: the ranks that are gone, or the failure of one.
struct Verdict {
  std::string message;
  ExitCode exit_code;
  int speaker = 0;  // tells of it: the lowest rank that is left, if it knows
};

class Peers {
 public:
  /// Joins: returns once every process has posted its notice. timeout: for that. Throws Error where
  /// the store can't be made or reached. Where some do not come the lowest of those that did throws
  /// an Error that names them, the others PeerFailure.
  Peers(const Launch& launch, std::chrono::seconds timeout);
  /// leave()s.
  ~Peers();
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  const Launch& launch() const { return launch_; }
  /// Tells this start of the processes from others that an elastic launcher made.
  const std::string& meeting() const;
  /// For the rendezvous of c10d's groups; `group` keeps their keys apart.
  c10::intrusive_ptr<c10d::Store> store(const std::string& group) const;

  /// Posts a value under a name of this process's, where others read it until it is withdrawn.
  void post(const std::string& name, const std::string& value);
  void withdraw(const std::string& name);
  /// Waits until that process has posted the name; gives the value. Throws PeerFailure when any
  /// process fails or falls silent meanwhile.
  std::string await(int rank, const std::string& name) const;

  /// Throws a request Error on all processes, which names key, ranks and values, unless they are
  /// the same everywhere. Every process calls it alike; `name` is used once.
  void require_alike(const std::string& name, const std::map<std::string, std::string>& values);

  /// Tells the others that this process failed.
  void tell(const Failure& failure);
  /// Tells them, and finds out what happened, in at most 5 seconds.
  Verdict settle(const Failure& failure);
  /// From now on, when a process has failed or been gone for as long as `patience` and this one has
  /// not noticed (it may hang in an engine that does not tell), settles in its place and calls end,
  /// which must not return.
  void guard(std::chrono::seconds patience, std::function<void(const Verdict&)> end);
  /// True for the speaker, unless another has told already. The others wait for it to tell, a
  /// moment at most: a launcher ends all processes when the first does.
  bool is_to_tell(const Verdict& verdict) const;
  /// The speaker calls it when it has told.
  void told();
  /// Says that this process is done. The one that serves the store waits a little for those that
  /// still need it.
  void leave();

 private:
  Launch launch_;
  Verdict look_around(const Failure& failure);

  std::unique_ptr<Board> board_;
  std::atomic<bool> is_settling_ = false;
  std::jthread guard_;
};

}  // namespace regroup
