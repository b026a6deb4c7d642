// framework/distributed/board.h: the notices that the processes of a run post in the launcher's
// store, and what this process knows of the others by them.
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

/// All notices as last seen, and our own, which a thread renews. It alone reads and writes notices
/// in the store, which may hang with the process that serves it; what others read of the board
/// never does.
class Board {
 public:
  using Clock = std::chrono::steady_clock;
  using milliseconds = std::chrono::milliseconds;
  using StorePointer = c10::intrusive_ptr<c10d::Store>;

  static constexpr milliseconds kPoll{50};
  static constexpr milliseconds kRefresh{200};
  static constexpr milliseconds kPosting{300};
  /// That the store is served for after this process is done.
  static constexpr milliseconds kFarewell{2000};

  /// What a process says of itself.
  struct Notice {
    int64_t renewals = 0;
    std::string host;
    int64_t process = 0;
    std::optional<Failure> failure;
    bool told = false;  // of the run's end, for all
    bool left = false;

    std::string to_text() const;
    static Notice from_text(const std::string& text);
  };
  struct Seen {
    Notice notice;
    Clock::time_point changed;
  };
  /// All notices, as of now, and which processes count as gone: silent though they never said that
  /// they failed or left.
  struct View {
    std::vector<Seen> peers;
    std::vector<int> gone;
    bool store_answers;
    bool is_gone(int rank) const;
    /// True where some process failed or is gone.
    bool is_broken() const;
  };

  /// Returns once every process has posted its notice, as Peers does. launch must outlive this.
  Board(const Launch& launch, milliseconds timeout);
  /// Posts that this process left.
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  /// Of this start's processes alone.
  const std::string& meeting() const { return meeting_; }
  /// A part of the store of this start's own.
  StorePointer store(const std::string& part) const;
  View view() const;
  /// The same of notices that are hardly older than kRefresh: for a moment of waiting.
  View fresh_view();

  /// Changes this process's notice. Returns when it is posted, or after kPosting;
  /// at once where the store has not answered for a while.
  template <typename Change>
  void change(const Change& change) {
    std::unique_lock lock(mutex_);
    change(own_);
    renew(lock);
  }

  /// Values beside the notices, each under a name of one process's. Throw PeerFailure where the
  /// store no longer answers.
  void post(const std::string& name, const std::string& value);
  void withdraw(const std::string& name);
  std::optional<std::string> posted(int rank, const std::string& name) const;

 private:
  void join(milliseconds timeout);
  void enter(const std::string& meeting);
  void accept_others();
  [[noreturn]] void refuse_absent() const;
  std::string text_at(const std::string& name) const;
  std::string key(const std::string& name) const { return "regroup/" + meeting_ + "/" + name; }
  std::string post_key(int rank, const std::string& name) const;
  void renew(std::unique_lock<std::mutex>& lock);
  void read();
  void keep();

  const Launch& launch_;
  // A connection for each use: what waits on one must not hold up the others.
  StorePointer store_, posts_, notices_;
  std::string meeting_;             // of this start's processes
  std::set<std::string> accepted_;  // the first one's: numbers of those that joined
  std::vector<std::string> keys_;   // of the notices
  mutable std::mutex mutex_;        // guards what follows
  std::condition_variable changed_;
  Notice own_;
  std::vector<Seen> seen_;
  Clock::time_point heard_;
  int64_t posted_ = 0;  // renewals of the notice in the store
  bool renew_now_ = false, stopping_ = false;
  std::thread thread_;  // last, so that it starts when all else is there
};

}  // namespace regroup
