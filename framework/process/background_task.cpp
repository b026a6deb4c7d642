#include "framework/process/background_task.h"

#include <chrono>

namespace regroup {

BackgroundTask::~BackgroundTask() {
  if (work_.valid()) work_.wait();
}

void BackgroundTask::start(std::function<void()> work) {
  wait();
  work_ = std::async(std::launch::async, std::move(work));
}

void BackgroundTask::wait() {
  if (work_.valid()) work_.get();
}

void BackgroundTask::check() {
  if (work_.valid() && work_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) wait();
}

}  // namespace regroup
