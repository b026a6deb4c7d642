// framework/distributed/world.h: all processes of a run together, or the one that there is.
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

/// How a model is divided: replicate: every process holds all of it; shard: a part each; hybrid: a
/// part each within a node, nodes hold the same. The optimizer's state is divided over all.
enum class Strategy { kReplicate, kShard, kHybrid };

/// By the names of configs.
const EnumNames<Strategy>& strategies();

struct DistOptions {
  Strategy strategy = Strategy::kReplicate;
  BackendKind backend = BackendKind::kAuto;
  torch::ScalarType wire_dtype = torch::kFloat32;    // in which gradients travel
  torch::ScalarType reduce_dtype = torch::kFloat32;  // in which they are added up
  int64_t timeout_s = 600;
};

class World {
 public:
  /// One process.
  World() = default;
  /// Every process calls it alike. Throws a request Error where backend or strategy don't fit the
  /// device or the nodes. peers must outlive this.
  World(Peers& peers, const DistOptions& options, torch::Device device);

  int rank() const { return peers_ ? peers_->launch().rank : 0; }
  int size() const { return peers_ ? peers_->launch().size : 1; }
  bool is_first() const { return rank() == 0; }
  /// As Peers::meeting; of several processes only.
  std::string meeting() const { return peers_->meeting(); }
  /// Among the processes of this node.
  int local_rank() const { return peers_ ? peers_->launch().local_rank : 0; }
  int local_size() const { return peers_ ? peers_->launch().local_size : 1; }

  /// Sums over all processes, number by number, added in the order of ranks.
  std::vector<double> sum(const std::vector<double>& numbers);
  /// tensor, in host memory, <- its sum over all processes.
  void add_up(const torch::Tensor& tensor);
  /// tensor, contiguous in host memory, <- that of one process.
  void broadcast(const torch::Tensor& tensor, int from);
  /// Calls work on every process; where it throws an Error on any, all throw one, the lowest
  /// rank's.
  void together(const std::function<void()>& work);
  /// Calls work; where it throws, the others are told before anything else: what is taken down on
  /// the way out may take long.
  void telling(const std::function<void()>& work);
  /// Calls work on the first process while the others wait, however long.
  void first_alone(const std::function<void()>& work);
  /// The same; all get the text that it gives.
  std::string told_by_first(const std::function<std::string()>& work);
  /// Throws a request Error on all processes, which names key, ranks and values, unless they are
  /// the same everywhere.
  void require_alike(const std::map<std::string, std::string>& values);
  /// The first process calls use with the texts of all, in the order of ranks; the others return
  /// when it is done. The name is used once. One thread may call it beside another that trains.
  void collect(const std::string& name, const std::string& text,
               const std::function<void(const std::vector<std::string>&)>& use);

  /// For the blocks of one model; null for one process.
  std::shared_ptr<Sharing> new_sharing() const;
  /// Bytes of values and gradients that this process has sent.
  int64_t sent_bytes() const;

 private:
  std::string next_name(const char* purpose) { return c10::str(purpose, "/", n_meetings_++); }

  Peers* peers_ = nullptr;
  DistOptions options_;
  std::unique_ptr<Ranks> control_;  // of all, for numbers in host memory
  std::shared_ptr<Ranks> shards_, replicas_;
  int64_t n_meetings_ = 0;
};

}  // namespace regroup
