// framework/distributed/ranks.h: a group of processes that exchange tensors. Every call is made by
// all of them, in the same order, with tensors of the same shapes and dtypes.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

namespace regroup {

/// An exchange that was started. What it reads and writes is kept until it is done.
class Pending {
 public:
  Pending() = default;
  Pending(std::vector<c10::intrusive_ptr<c10d::Work>> works, std::vector<torch::Tensor> tensors)
      : works_(std::move(works)), tensors_(std::move(tensors)) {}

  /// Returns when it is done (on a GPU: when it is in the current stream's order). Throws
  /// PeerFailure where a process is gone or the time is over.
  void wait();

 private:
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  std::vector<torch::Tensor> tensors_;
};

class Ranks {
 public:
  explicit Ranks(c10::intrusive_ptr<c10d::Backend> backend) : backend_(std::move(backend)) {}

  int rank() const { return backend_->getRank(); }
  int size() const { return backend_->getSize(); }

  /// whole: [size * n] <- everyone's part [n], in the order of ranks. The part may lie in the
  /// whole, at its own place.
  Pending gather(const torch::Tensor& whole, const torch::Tensor& part);
  /// received: [size * n] <- what the other ranks send to this one; sent: [size * n], n for each.
  /// What is received at the own place is of no use.
  Pending exchange(const torch::Tensor& received, const torch::Tensor& sent);
  /// tensor <- its sum over all ranks.
  Pending sum(const torch::Tensor& tensor);
  /// tensor <- that of one rank.
  Pending broadcast(const torch::Tensor& tensor, int from);

  /// Bytes that this process has sent on the wire: what a ring of gather or sum, a direct
  /// exchange and a sender to each other rank send.
  int64_t sent_bytes() const { return sent_bytes_; }

 private:
  bool takes_messages(const torch::Tensor& tensor) const;
  /// sent: a tensor for each rank. Gloo's own collectives work on copies; messages arrive where
  /// they belong.
  Pending messages(const torch::Tensor& received, std::vector<torch::Tensor> sent);

  c10::intrusive_ptr<c10d::Backend> backend_;
  int64_t sent_bytes_ = 0;
  int message_ = 0;  // tells those of one call from others
};

}  // namespace regroup
