// framework/distributed/world.h: what the processes of a run do together. A World of one process
// needs no group: each of its functions then does the same for that process alone.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "framework/distributed/backends.h"
#include "framework/distributed/peers.h"
#include "framework/distributed/sharing.h"

namespace regroup {

/// How a model is divided. replicate: each process holds the whole model. shard: each process holds
/// one part. hybrid: the processes of a node hold one part each, and all nodes hold the same. Each
/// strategy divides the optimizer's state over all processes.
enum class Strategy { kReplicate, kShard, kHybrid };

/// By their names in configs.
const EnumNames<Strategy>& strategies();

struct DistOptions {
  Strategy strategy = Strategy::kReplicate;
  BackendKind backend = BackendKind::kAuto;
  torch::ScalarType wire_dtype = torch::kFloat32;    // in which gradients travel
  torch::ScalarType reduce_dtype = torch::kFloat32;  // in which gradients are summed
  int64_t timeout_s = 600;
};

class World {
 public:
  /// One process.
  World() = default;
  /// Every process must construct it, with the same options. Throws a request Error where the
  /// backend does not support the device or the strategy the nodes. peers must outlive this.
  World(Peers& peers, const DistOptions& options, torch::Device device);

  int rank() const { return peers_ ? peers_->launch().rank : 0; }
  int size() const { return peers_ ? peers_->launch().size : 1; }
  bool is_rank_0() const { return rank() == 0; }
  /// See Peers::launch_id. Needs several processes.
  std::string launch_id() const { return peers_->launch_id(); }
  /// Rank and number among the processes of this node.
  int local_rank() const { return peers_ ? peers_->launch().local_rank : 0; }
  int local_size() const { return peers_ ? peers_->launch().local_size : 1; }

  // Every process must call each of the following functions, in the same order.

  /// The sum over all processes of each number, added in the order of ranks.
  std::vector<double> sum(const std::vector<double>& numbers);
  /// tensor, in host memory, <- the sum over all processes.
  void all_reduce(const torch::Tensor& tensor);
  /// tensor, contiguous in host memory, <- the tensor of rank `from`.
  void broadcast(const torch::Tensor& tensor, int from);
  /// Runs work on every rank. If it throws an Error on any, every rank throws: its own Error, or
  /// else that of the lowest rank that has one.
  void all_or_throw(const std::function<void()>& work);
  /// Runs work. If it throws, reports the failure to the other processes before unwinding, because
  /// destructors may block.
  void report_failure_of(const std::function<void()>& work);
  /// Runs work on rank 0. The other ranks wait until it is done, without a timeout.
  void on_rank_0(const std::function<void()>& work);
  /// Runs work on rank 0, as on_rank_0, and returns its string on every rank.
  std::string broadcast_string(const std::function<std::string()>& work);
  /// Throws a request Error on every rank, which names keys, ranks and values, where a value
  /// differs from that of rank 0.
  void require_equal(const std::map<std::string, std::string>& values);
  /// Rank 0 calls use with the text of every rank, in the order of ranks. The other ranks return
  /// when it is done. name: unique to this call. May be called in a thread beside the one that
  /// trains.
  void gather_strings(const std::string& name, const std::string& text,
                      const std::function<void(const std::vector<std::string>&)>& use);

  /// For the blocks of one model. Null where there is one process.
  std::shared_ptr<Sharing> new_sharing() const;
  /// Bytes of values and gradients that this process has sent.
  int64_t sent_bytes() const;

 private:
  std::string next_name(const char* purpose) { return c10::str(purpose, "/", n_names_++); }

  Peers* peers_ = nullptr;
  DistOptions options_;
  std::unique_ptr<Ranks> control_;  // all ranks, for numbers in host memory
  std::shared_ptr<Ranks> shards_, replicas_;
  int64_t n_names_ = 0;
};

}  // namespace regroup
