#include "framework/distributed/ranks.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/errors/failure.h"

namespace regroup {
namespace {

using torch::Tensor;

/// A collective that only moves data works on any dtype, also on those that an engine lacks.
Tensor as_bytes(const Tensor& tensor) { return tensor.view(torch::kUInt8); }

int64_t bytes(const Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

/// An engine's message without source line and advice: "Connection closed by peer ...".
std::string reason_in(const std::string& message) {
  const auto begin = message.starts_with("[/") ? message.find("] ") + 2 : 0;
  const auto end = message.find_first_of("\n", begin);
  const auto text = message.substr(begin, end - begin);
  return text.substr(0, text.find(". "));
}

/// Calls an engine; turns each of its exceptions into PeerFailure.
template <typename Call>
auto guarded(const Call& call) {
  try {
    return call();
  } catch (const c10::Error& error) {
    throw PeerFailure(reason_in(error.what_without_backtrace()));
  } catch (const std::exception& error) {  // Gloo's exceptions
    throw PeerFailure(reason_in(error.what()));
  }
}

}  // namespace

void Pending::wait() {
  const auto works = std::exchange(works_, {});
  for (const auto& work : works) {
    if (!guarded([&] { return work->wait(); })) throw PeerFailure("an exchange was aborted");
  }
  tensors_.clear();
}

bool Ranks::uses_messages(const Tensor& tensor) const {
  return backend_->getBackendName() == "gloo" && tensor.is_cpu();
}

Pending Ranks::all_gather(const Tensor& whole, const Tensor& part) {
  sent_bytes_ += bytes(part) * (size() - 1);
  auto to = as_bytes(whole), from = as_bytes(part);
  if (uses_messages(part)) {
    const auto own = to.chunk(size())[static_cast<size_t>(rank())];
    if (own.const_data_ptr() != from.const_data_ptr()) own.copy_(from);
    return messages(to, std::vector<Tensor>(static_cast<size_t>(size()), from));
  }
  return guarded([&] { return Pending({backend_->_allgather_base(to, from)}, {to, from}); });
}

Pending Ranks::all_to_all(const Tensor& received, const Tensor& sent) {
  sent_bytes_ += bytes(sent) / size() * (size() - 1);
  auto to = as_bytes(received), from = as_bytes(sent);
  if (uses_messages(sent)) return messages(to, from.chunk(size()));
  return guarded([&] {
    std::vector<int64_t> even;
    return Pending({backend_->alltoall_base(to, from, even, even)}, {to, from});
  });
}

Pending Ranks::messages(const Tensor& received, std::vector<Tensor> sent) {
  constexpr int kMessages = 1 << 16;
  message_ = (message_ + 1) % kMessages;
  const auto parts = received.chunk(size());
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  guarded([&] {
    for (int away = 1; away < size(); ++away) {
      const int to = (rank() + away) % size(), from = (rank() + size() - away) % size();
      std::vector<Tensor> theirs{parts[static_cast<size_t>(from)]};
      std::vector<Tensor> ours{sent[static_cast<size_t>(to)]};
      works.push_back(backend_->recv(theirs, from, message_));
      works.push_back(backend_->send(ours, to, message_));
    }
  });
  sent.push_back(received);
  return {std::move(works), std::move(sent)};
}

Pending Ranks::all_reduce(const Tensor& tensor) {
  sent_bytes_ += 2 * bytes(tensor) / size() * (size() - 1);
  std::vector<Tensor> tensors{tensor};
  return guarded([&] { return Pending({backend_->allreduce(tensors)}, tensors); });
}

Pending Ranks::broadcast(const Tensor& tensor, int from) {
  if (from == rank()) sent_bytes_ += bytes(tensor) * (size() - 1);
  std::vector<Tensor> tensors{as_bytes(tensor)};
  return guarded([&] {
    c10d::BroadcastOptions options;
    options.rootRank = from;
    return Pending({backend_->broadcast(tensors, options)}, tensors);
  });
}

}  // namespace regroup
