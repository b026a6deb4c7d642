// framework/process/background_task.h: one task at a time in a thread, beside the loop that starts
// it.
#pragma once

#include <functional>
#include <future>

namespace regroup {

class BackgroundTask {
 public:
  BackgroundTask() = default;
  /// Waits for the task. Drops an exception from it, so call wait() before.
  ~BackgroundTask();
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  /// Waits for the previous task, then starts this one in a new thread.
  void start(std::function<void()> work);
  /// Waits for the task, if there is one, and rethrows its exception.
  void wait();
  /// As wait() where the task is done; otherwise returns at once.
  void check();

 private:
  std::future<void> work_;
};

}  // namespace regroup
