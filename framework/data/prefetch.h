// framework/data/prefetch.h: a background thread that keeps the next batches ready.
#pragma once

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace regroup {

/// Calls `produce` ahead of the consumer, in order in one thread, and keeps at most `depth`
/// results. The destructor waits for a call in progress and drops the remaining results.
class Prefetch {
 public:
  Prefetch(std::function<at::Tensor()> produce, size_t depth);
  ~Prefetch();
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  /// Waits for the next result. Where `produce` threw, throws its exception instead, and again at
  /// every later call.
  at::Tensor next();

 private:
  void run();

  std::function<at::Tensor()> produce_;
  size_t depth_;
  std::mutex mutex_;  // guards the members below
  std::condition_variable changed_;
  std::deque<at::Tensor> ready_;
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::thread thread_;  // the last member, so that it starts after the others
};

}  // namespace regroup
