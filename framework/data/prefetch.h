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

/// Calls `produce` ahead of the consumer, on one thread of its own and in order, and keeps at most
/// `depth` results. The destructor waits for a call that is under way and drops what is left.
class Prefetch {
 public:
  Prefetch(std::function<at::Tensor()> produce, size_t depth);
  ~Prefetch();
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  /// The next result, waiting for it if need be. An exception from `produce` is thrown here in its
  /// place, and again at every later call.
  at::Tensor next();

 private:
  void run();

  std::function<at::Tensor()> produce_;
  size_t depth_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<at::Tensor> ready_;
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::thread thread_;  // last, so that it starts when all else is there
};

}  // namespace regroup
