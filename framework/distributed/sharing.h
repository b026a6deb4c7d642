// framework/distributed/sharing.h: how the blocks of a model are divided over processes. One mesh
// of shards times replicas covers all strategies: a block's values and gradients are divided over
// the shards (ZeRO-3, Rajbhandari et al. 2020), each part is held alike by the replicas, and of a
// part each replica sums the gradient and updates the values of its own stretch (ZeRO-1), which it
// then publishes. Layers and trainer see none of it.
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

/// Elements of every process's part of a block, padding included, so that shards and replicas
/// divide it evenly.
int64_t part_size(int64_t numel, int64_t shards, int64_t replicas);

class Sharing {
 public:
  /// Either group may be null: one shard, or one replica. wire: dtype in which gradients travel;
  /// sums: dtype in which they are added up.
  Sharing(std::shared_ptr<Ranks> shards, std::shared_ptr<Ranks> replicas, torch::ScalarType wire,
          torch::ScalarType sums);

  /// Elements of every process's part of a block, padding included.
  int64_t part_size(int64_t numel) const {
    return regroup::part_size(numel, n_shards(), n_replicas());
  }
  /// Those of this process's part that are the block's; the part begins at element `begin`.
  Range held(int64_t numel) const;
  /// Those of them that are of its own stretch.
  Range own(int64_t numel) const;

  /// Takes up the next block by its part, [part_size]; gives its number.
  size_t add(const torch::Tensor& part);
  /// gradient: [part_size], the sum that reduce() adds to. When all is summed, that of all
  /// processes stands in the own stretch.
  void set_gradient(size_t block, const torch::Tensor& gradient);

  /// This process has updated its own stretch of a block's part: the replicas exchange what each
  /// has.
  void publish(size_t block);
  /// Returns when what replicas published of a block has arrived in its part.
  void settle(size_t block) { blocks_[block].publication.wait(); }

  /// A forward pass begins, with its backward where there is one. sums_up: its gradients complete
  /// the step's, so replicas add theirs up.
  void begin_pass(bool sums_up);
  /// All parts of a block in order, [shards * part_size]: the part itself with one shard. While it
  /// is used, the block that followed it in the pass before is on its way.
  torch::Tensor whole(size_t block);

  /// Where the pass's gradient of a block is to be added up, in its dtype: [shards * part_size].
  torch::Tensor gradient_buffer(size_t block);
  /// The buffer is complete: what has to travel starts to.
  void reduce(size_t block);
  /// Returns when all that travels has arrived: gradients are summed, publications are here.
  void finish();

 private:
  struct Block {
    torch::Tensor part, gradient;
    torch::Tensor unreduced;  // with several shards, from the first gradient to its exchange
    Pending publication;
  };
  /// A sum over a group that is under way: exchange, then add.
  struct Reduction {
    size_t block;
    torch::Tensor own, received;  // own: this process's share of what it sent, where others' go
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
