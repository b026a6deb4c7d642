#include "framework/process/signals.h"

#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>

#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"

namespace regroup {
namespace {

std::atomic<time_t> first_signal_at{0};  // 0: none yet
static_assert(std::atomic<time_t>::is_always_lock_free, "a signal handler may not wait");
constexpr time_t kEchoSeconds = 2;
std::atomic<const char*> first_signal_message{""};

sem_t end_requested;  // posted by the handler, because it may not clean up itself
std::atomic<bool> is_ending{false};

void request_end(int) {
  is_ending = true;
  sem_post(&end_requested);
}

struct sigaction action_of(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  return action;
}

/// Must call only async-signal-safe functions.
void on_signal(int) {
  const int errno_before = errno;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const time_t seconds = now.tv_sec + 1;  // never 0
  time_t first = 0;
  if (first_signal_at.compare_exchange_strong(first, seconds)) {
    write_all(STDERR_FILENO, first_signal_message.load());
    errno = errno_before;
    return;
  }
  if (seconds - first >= kEchoSeconds) _exit(static_cast<int>(ExitCode::kInterrupted));
}

}  // namespace

void end_on_signals(std::function<void()> last_words) {
  sem_init(&end_requested, 0, 0);
  std::thread([last_words = std::move(last_words)] {
    while (sem_wait(&end_requested) != 0) {
    }
    last_words();
    _exit(static_cast<int>(ExitCode::kInterrupted));
  }).detach();
  for (const int signal : {SIGINT, SIGTERM}) {
    const auto action = action_of(request_end);
    struct sigaction before {};
    sigaction(signal, &action, &before);
    if (before.sa_handler == SIG_IGN) sigaction(signal, &before, nullptr);  // as under nohup
  }
}

void wait_if_ending() {
  while (is_ending) ::pause();
}

StopSignals::StopSignals(const char* message) {
  first_signal_message = message;
  first_signal_at = 0;
  const auto action = action_of(on_signal);
  sigaction(SIGINT, &action, &before_int_);
  sigaction(SIGTERM, &action, &before_term_);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &before_int_, nullptr);
  sigaction(SIGTERM, &before_term_, nullptr);
}

bool stop_requested() { return first_signal_at != 0; }

}  // namespace regroup
