#include "framework/data/prefetch.h"

#include <utility>

namespace regroup {

Prefetch::Prefetch(std::function<at::Tensor()> produce, size_t depth)
    : produce_(std::move(produce)), depth_(depth), thread_([this] { run(); }) {}

Prefetch::~Prefetch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

at::Tensor Prefetch::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || failure_; });
  if (ready_.empty()) std::rethrow_exception(failure_);
  auto result = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return result;
}

void Prefetch::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || ready_.size() < depth_; });
    if (stopping_) return;
    lock.unlock();
    at::Tensor result;
    std::exception_ptr failure;
    try {
      result = produce_();
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    failure_ = failure;
    if (!failure) ready_.push_back(std::move(result));
    changed_.notify_all();
    if (failure) return;
  }
}

}  // namespace regroup
