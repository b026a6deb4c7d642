// framework/process/background_task.h: one piece of work at a time, beside the loop that starts it.
#pragma once

#include <functional>
#include <future>

namespace regroup {

class BackgroundTask {
 public:
  BackgroundTask() = default;
  /// Waits for the work; what it throws is lost, so call wait() before.
  ~BackgroundTask();
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  /// Waits for the work before, then starts this on a thread of its own.
  void start(std::function<void()> work);
  /// Returns when the work is done, at once where there is none. Throws what the work threw.
  void wait();
  /// The same where the work is done by now; else returns at once.
  void check();

 private:
  std::future<void> work_;
};

}  // namespace regroup
