// framework/distributed/board.h: the notices that the processes of a run post to the launcher's
// store, and the state of the other processes as these show it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "framework/distributed/launch.h"
#include "framework/errors/failure.h"

namespace regroup {

/// "rank 1", "ranks 0, 2".
std::string ranks_text(const std::vector<int>& ranks);

/// This process's notice, which a thread renews, and the latest notices of all processes. Only that
/// thread reads and writes notices in the store, because a call of the store hangs when the process
/// that serves it does; the functions below return without waiting for the store.
class Board {
 public:
  using Clock = std::chrono::steady_clock;
  using milliseconds = std::chrono::milliseconds;
  using StorePointer = c10::intrusive_ptr<c10d::Store>;

  static constexpr milliseconds kPoll{50};
  static constexpr milliseconds kRefresh{200};
  static constexpr milliseconds kPostTimeout{300};
  /// How long the process that serves the store goes on serving it after it is done.
  static constexpr milliseconds kServeAfterExit{2000};

  /// The state of a process, as it posts it.
  struct Notice {
    int64_t renewals = 0;
    std::string host;
    int64_t process = 0;
    std::optional<Failure> failure;
    bool reported = false;  // it has printed why the run ends
    bool left = false;

    std::string to_text() const;
    static Notice from_text(const std::string& text);
  };
  struct Seen {
    Notice notice;
    Clock::time_point changed;
  };
  /// The latest notice of each rank, and the ranks that are gone: those that stopped renewing their
  /// notice without posting that they failed or left.
  struct View {
    std::vector<Seen> peers;
    std::vector<int> gone;
    bool store_answers;
    bool is_gone(int rank) const;
    /// True where a process failed or is gone.
    bool is_broken() const;
  };

  /// Returns once every process has posted its notice; throws as Peers does. launch must outlive
  /// this.
  Board(const Launch& launch, milliseconds timeout);
  /// Posts that this process has left.
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  /// See Peers::launch_id.
  const std::string& launch_id() const { return launch_id_; }
  /// The store, with keys that are unique to this launch and to `part`.
  StorePointer store(const std::string& part) const;
  View view() const;
  /// As view(), but waits briefly for notices that are not much older than kRefresh.
  View fresh_view();

  /// Changes this process's notice. Returns when it is posted or after kPostTimeout; immediately
  /// where the store has stopped answering.
  template <typename Change>
  void change(const Change& change) {
    std::unique_lock lock(mutex_);
    change(own_);
    renew(lock);
  }

  /// Values that a rank posts under a name, beside its notice. Throw PeerFailure where the store no
  /// longer answers.
  void post(const std::string& name, const std::string& value);
  void withdraw(const std::string& name);
  std::optional<std::string> posted(int rank, const std::string& name) const;

 private:
  void join(milliseconds timeout);
  void enter(const std::string& launch_id);
  void accept_ranks();
  [[noreturn]] void refuse_absent() const;
  std::string text_at(const std::string& name) const;
  std::string key(const std::string& name) const { return "regroup/" + launch_id_ + "/" + name; }
  std::string post_key(int rank, const std::string& name) const;
  void renew(std::unique_lock<std::mutex>& lock);
  void read();
  void renew_until_stopped();

  const Launch& launch_;
  // One connection per use, because a call that waits blocks its connection.
  StorePointer store_, posts_, notices_;
  std::string launch_id_;
  std::set<std::string> accepted_;  // on rank 0: the numbers of the ranks that joined
  std::vector<std::string> keys_;   // of the notices, by rank
  mutable std::mutex mutex_;        // guards the members below
  std::condition_variable changed_;
  Notice own_;
  std::vector<Seen> seen_;
  Clock::time_point heard_;  // when the store last answered
  int64_t posted_ = 0;       // renewals of the notice in the store
  bool renew_now_ = false, stopping_ = false;
  std::thread thread_;  // the last member, so that it starts after the others
};

}  // namespace regroup
