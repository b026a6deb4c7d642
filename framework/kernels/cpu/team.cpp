#include "framework/kernels/cpu/team.h"

#include <ATen/Parallel.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace regroup::kernels::cpu {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kWorkerSpins = 100us;  // longer than the pauses between the loops of a token
constexpr auto kCallerSpins = 200us;  // longer than waking a worker takes
constexpr int kPausesBetweenClocks = 16;

void pause_spinning() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// A number that one thread waits for others to change. It spins first and then sleeps in a futex:
/// std::atomic's wait would yield to other programs in between, for the whole of their turns.
class Number {
 public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }
  void set(uint32_t value) { value_.store(value); }
  uint32_t add(int32_t change) {
    return value_.fetch_add(static_cast<uint32_t>(change)) + static_cast<uint32_t>(change);
  }

  /// Called after a change that the other thread waits for.
  void wake() {
    if (is_asleep_.load()) futex(FUTEX_WAKE_PRIVATE, 1);
  }

  /// Returns when it is no longer `old`; false if spinning was in vain.
  bool wait_while(uint32_t old, Clock::duration spin) {
    for (const auto begin = Clock::now(); Clock::now() - begin < spin;) {
      for (int i = 0; i < kPausesBetweenClocks; ++i) {
        if (value() != old) return true;
        pause_spinning();
      }
    }
    is_asleep_.store(true);
    while (value_.load() == old) futex(FUTEX_WAIT_PRIVATE, old);
    is_asleep_.store(false);
    return false;
  }

 private:
  void futex(int operation, uint32_t argument) {
    ::syscall(SYS_futex, &value_, operation, argument, nullptr, nullptr, 0);
  }

  std::atomic<uint32_t> value_{0};
  std::atomic<bool> is_asleep_{false};
};

/// Whether spinning pays. On a busy machine a thread that spins has the processor which the one
/// that it waits for needs, so a caller waits in vain. Then the team sleeps, the longer the more
/// often this happens.
class Patience {
 public:
  bool has_any() const { return Clock::now().time_since_epoch() >= back_at_.load(); }

  void note_success() { disappointment_ = std::max(0, disappointment_ - 1); }

  void note_failure() {
    disappointment_ += kDisappointment;
    if (disappointment_ < kMostDisappointment) return;
    disappointment_ = 0;
    const auto now = Clock::now().time_since_epoch();
    pause_ = now - back_at_.load() > kQuiet ? kShortestPause : std::min(2 * pause_, kLongestPause);
    back_at_.store(now + pause_);
  }

 private:
  static constexpr int kDisappointment = 8, kMostDisappointment = 32;
  static constexpr std::chrono::milliseconds kShortestPause{10}, kLongestPause{640}, kQuiet{200};

  int disappointment_ = 0;  // of the caller alone
  std::chrono::milliseconds pause_ = kShortestPause;
  std::atomic<Clock::duration> back_at_{Clock::duration::zero()};
};

/// The thread that calls, and workers that live as long as the process.
class Team {
 public:
  /// Calls part(i) for i below n_parts. False, with nothing done, while a loop is going on in here,
  /// or where no more threads can be had.
  bool run(int64_t n_parts, const std::function<void(int64_t)>& part) {
    const Turn turn(is_running_);
    const int64_t n_workers = n_parts - 1;
    if (!turn.is_mine() || !hire(n_workers)) return false;
    part_ = &part;
    error_ = nullptr;
    unfinished_.set(static_cast<uint32_t>(n_workers));
    for (int64_t i = 0; i < n_workers; ++i) start(*workers_[static_cast<size_t>(i)]);
    run_part(0);
    wait_for_workers();
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  struct alignas(64) Worker {
    Number turn;
  };

  /// Of the first loop that asks for it.
  class Turn {
   public:
    explicit Turn(std::atomic<bool>& is_taken)
        : is_taken_(is_taken), is_mine_(!is_taken.exchange(true)) {}
    ~Turn() {
      if (is_mine_) is_taken_.store(false);
    }
    bool is_mine() const { return is_mine_; }

   private:
    std::atomic<bool>& is_taken_;
    bool is_mine_;
  };

  bool hire(int64_t n_workers) try {
    while (static_cast<int64_t>(workers_.size()) < n_workers) {
      auto worker = std::make_unique<Worker>();
      const auto number = static_cast<int64_t>(workers_.size()) + 1;
      std::thread([this, worker = worker.get(), number] { work(*worker, number); }).detach();
      workers_.push_back(std::move(worker));
    }
    return true;
  } catch (const std::system_error&) {
    return false;
  }

  static void start(Worker& worker) {
    worker.turn.add(1);
    worker.turn.wake();
  }

  [[noreturn]] void work(Worker& worker, int64_t number) {
    for (uint32_t turn = 0;; ++turn) {
      worker.turn.wait_while(turn, patience_.has_any() ? kWorkerSpins : 0us);
      run_part(number);
      if (unfinished_.add(-1) == 0) unfinished_.wake();
    }
  }

  void wait_for_workers() {
    while (const uint32_t left = unfinished_.value()) {
      if (!patience_.has_any()) {
        unfinished_.wait_while(left, 0us);
      } else if (unfinished_.wait_while(left, kCallerSpins)) {
        patience_.note_success();
      } else {
        patience_.note_failure();
      }
    }
  }

  void run_part(int64_t number) {
    try {
      (*part_)(number);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      error_ = std::current_exception();
    }
  }

  std::atomic<bool> is_running_{false};
  std::vector<std::unique_ptr<Worker>> workers_;
  const std::function<void(int64_t)>* part_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  Patience patience_;
  alignas(64) Number unfinished_;
};

/// Never destroyed: its workers wait in it. A forked child has no workers, and gets a new team.
Team& team() {
  static Team* team = new Team;
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { team = new Team; });
  (void)registered;
  return *team;
}

}  // namespace

void brief_parallel_for(int64_t n, int64_t grain,
                        const std::function<void(int64_t begin, int64_t end)>& run) {
  if (n <= 0) return;
  const int64_t most = at::in_parallel_region() ? 1 : at::get_num_threads();
  const int64_t n_parts = std::clamp<int64_t>(n / std::max<int64_t>(1, grain), 1, most);
  const int64_t size = (n + n_parts - 1) / n_parts;
  const auto run_part = [&](int64_t part) {
    const int64_t begin = part * size, end = std::min(n, begin + size);
    if (begin < end) run(begin, end);
  };
  if (n_parts > 1 && team().run(n_parts, run_part)) return;
  run(0, n);
}

}  // namespace regroup::kernels::cpu
