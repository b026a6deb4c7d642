// framework/distributed/peers.h: knowing how the other processes fare. Each posts a notice, renewed
// every moment, in the launcher's store; so a collective that fails can be told for what it is, and
// one process says for all of them who is gone.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "framework/distributed/launch.h"
#include "framework/error.h"

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

class Peers {
 public:
  /// Joins: returns once every process has posted its notice. timeout: for that. Throws Error where
  /// the store can't be made or reached, and names the ranks that did not come.
  Peers(const Launch& launch, std::chrono::seconds timeout);
  /// leave()s.
  ~Peers();
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  const Launch& launch() const { return launch_; }
  /// For the rendezvous of c10d's groups; `group` keeps their keys apart.
  c10::intrusive_ptr<c10d::Store> store(const std::string& group) const;

  /// Posts a value under a name on this process's notice, where it stays until it is replaced.
  void post(const std::string& name, const std::string& value);
  void withdraw(const std::string& name);
  /// Waits until that process has posted the name; gives the value. Throws PeerFailure when any
  /// process fails or falls silent meanwhile.
  std::string await(int rank, const std::string& name) const;

  /// Tells the others that this process failed, and finds out what happened, in at most 5 seconds.
  /// Gives the message for the user where this is the process to print it (the lowest rank that is
  /// left), which names the ranks that are gone or the one whose own failure ended the run.
  std::optional<std::string> settle(const Failure& failure);
  /// Says that this process is done. The one that serves the store waits a little for those that
  /// still need it.
  void leave();

 private:
  class Board;  // the notices, kept by a thread of its own
  Launch launch_;
  std::unique_ptr<Board> board_;
};

}  // namespace regroup
