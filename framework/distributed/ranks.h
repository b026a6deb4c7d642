// framework/distributed/ranks.h: collectives of a group of processes. All of them must make the
// same calls in the same order, with tensors of the same shapes and dtypes.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

namespace regroup {

/// A collective that was started. It keeps the tensors that it reads and writes until it is done.
class Pending {
 public:
  Pending() = default;
  Pending(std::vector<c10::intrusive_ptr<c10d::Work>> works, std::vector<torch::Tensor> tensors)
      : works_(std::move(works)), tensors_(std::move(tensors)) {}

  /// Returns when it is done; on a GPU, when the current stream waits for it. Throws PeerFailure
  /// where a process is gone or the timeout is over.
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

  /// whole: [size * n] <- the part [n] of each rank, in the order of ranks. part may be this rank's
  /// slot of whole.
  Pending all_gather(const torch::Tensor& whole, const torch::Tensor& part);
  /// received: [size * n] <- the slot for this rank of each other rank's `sent`, [size * n]. This
  /// rank's slot of received is left undefined.
  Pending all_to_all(const torch::Tensor& received, const torch::Tensor& sent);
  /// tensor <- the sum over all ranks.
  Pending all_reduce(const torch::Tensor& tensor);
  /// tensor <- the tensor of rank `from`.
  Pending broadcast(const torch::Tensor& tensor, int from);

  /// Bytes that this process has sent, counted as a ring for all_gather and all_reduce, direct
  /// messages for all_to_all, and a message to each other rank for broadcast.
  int64_t sent_bytes() const { return sent_bytes_; }

 private:
  bool uses_messages(const torch::Tensor& tensor) const;
  /// sent: a tensor for each rank. Gloo's collectives copy their tensors; messages arrive in place.
  Pending messages(const torch::Tensor& received, std::vector<torch::Tensor> sent);

  c10::intrusive_ptr<c10d::Backend> backend_;
  int64_t sent_bytes_ = 0;
  int message_ = 0;  // tag: distinguishes the messages of one call from those of the next
};

}  // namespace regroup
