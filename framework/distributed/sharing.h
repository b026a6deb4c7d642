// framework/distributed/sharing.h: how the blocks of a model are divided over processes. One mesh
// of shards times replicas covers all strategies. The shards divide a block's values and gradients
// into parts (ZeRO-3, Rajbhandari et al. 2020). The replicas hold copies of a part and divide it
// into stretches (ZeRO-1): each replica sums the gradient of its stretch, updates the values, and
// publishes them to the other replicas. Layers and trainer do not see any of this.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "framework/distributed/ranks.h"

namespace regroup {

/// Elements [begin, end).
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

/// Elements of a part of a block, padded so that shards and replicas divide the block evenly.
int64_t part_size(int64_t numel, int64_t shards, int64_t replicas);

class Sharing {
 public:
  /// shards, replicas: null for one shard, or one replica. wire: dtype in which gradients travel.
  /// sums: dtype in which they are summed.
  Sharing(std::shared_ptr<Ranks> shards, std::shared_ptr<Ranks> replicas, torch::ScalarType wire,
          torch::ScalarType sums);

  /// Elements of a part of a block, padding included.
  int64_t part_size(int64_t numel) const {
    return regroup::part_size(numel, n_shards(), n_replicas());
  }
  /// The block's elements in this process's part, without padding; the part starts at `begin`.
  Range held(int64_t numel) const;
  /// The block's elements in this process's stretch, which it updates.
  Range own(int64_t numel) const;

  /// Registers a block. part: this process's shard, [part_size]. Returns the block's index.
  size_t add(const torch::Tensor& part);
  /// gradient: [part_size], to which reduce() adds. After finish(), this process's stretch of it
  /// holds the sum over all processes.
  void set_gradient(size_t block, const torch::Tensor& gradient);

  /// Starts to exchange the updated stretches of a block's part between the replicas.
  void publish(size_t block);
  /// Returns when the stretches that the replicas published have arrived in the block's part.
  void wait_published(size_t block) { blocks_[block].publication.wait(); }

  /// Starts a forward pass and its backward. sums_up: this is the last pass of the step, after
  /// which the replicas sum their gradients.
  void begin_pass(bool sums_up);
  /// All parts of a block in order, [shards * part_size]; with one shard, the part itself.
  /// Prefetches the block that followed it in the previous pass.
  torch::Tensor whole(size_t block);

  /// The buffer for this pass's gradient of a block: [shards * part_size], in the gradient's dtype.
  torch::Tensor gradient_buffer(size_t block);
  /// Starts to sum the completed buffer over the shards, and in the last pass over the replicas.
  void reduce(size_t block);
  /// Returns when all gradients are summed and all published values have arrived.
  void finish();

 private:
  struct Block {
    torch::Tensor part, gradient;
    torch::Tensor unreduced;  // with several shards, from the first gradient until it is sent
    Pending publication;
  };
  /// A sum over a group that was started: exchange, then add.
  struct Reduction {
    size_t block;
    torch::Tensor own, received;  // own: this rank's slot of what it sent, to which it adds
    Pending exchange;
  };
  struct Prefetched {
    size_t block;
    torch::Tensor whole;
    Pending gather;
  };

  int n_shards() const { return shards_ ? shards_->size() : 1; }
  int n_replicas() const { return replicas_ ? replicas_->size() : 1; }
  torch::Tensor own_stretch(const torch::Tensor& part) const;
  Prefetched start_gather(size_t block);
  void drop_prefetched();
  Reduction start_exchange(Ranks& ranks, size_t block, const torch::Tensor& sent) const;
  void finish_shard_sum();
  void start_replica_sum(size_t block);
  void finish_replica_sum();

  std::shared_ptr<Ranks> shards_, replicas_;
  torch::ScalarType wire_, sums_;
  std::vector<Block> blocks_;
  bool sums_up_ = false;
  std::vector<size_t> order_, previous_order_;  // of gathers, in this pass and the one before
  std::optional<Prefetched> prefetched_;
  std::optional<Reduction> shard_sum_, replica_sum_;
};

}  // namespace regroup
