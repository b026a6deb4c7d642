#include "framework/distributed/sharing.h"

#include <ATen/ceil_div.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"

namespace regroup {
namespace {

using torch::Tensor;

/// This rank's slot of x, which has one for each rank.
Tensor piece(const Tensor& x, const Ranks& ranks) {
  return x.chunk(ranks.size())[static_cast<size_t>(ranks.rank())];
}

/// own += the slots that the other ranks sent, in the order of ranks, in own's precision or in
/// `dtype` where that is narrower.
void add_received(const Tensor& own, const Tensor& received, const Ranks& ranks,
                  torch::ScalarType dtype) {
  auto slots = received.chunk(ranks.size());
  slots.erase(slots.begin() + ranks.rank());
  const auto sum = dtype == torch::kFloat32 ? own : own.to(dtype);
  for (const auto& slot : slots) kernels::accumulate_(sum, slot);
  if (!sum.is_same(own)) own.copy_(sum);
}

}  // namespace

Sharing::Sharing(std::shared_ptr<Ranks> shards, std::shared_ptr<Ranks> replicas,
                 torch::ScalarType wire, torch::ScalarType sums)
    : shards_(std::move(shards)), replicas_(std::move(replicas)), wire_(wire), sums_(sums) {}

int64_t part_size(int64_t numel, int64_t shards, int64_t replicas) {
  return at::ceil_div<int64_t>(at::ceil_div<int64_t>(numel, shards), replicas) * replicas;
}

Range Sharing::held(int64_t numel) const {
  const int64_t size = part_size(numel);
  const int64_t begin = std::min(numel, size * (shards_ ? shards_->rank() : 0));
  return {begin, std::min(numel, begin + size)};
}

Range Sharing::own(int64_t numel) const {
  const int64_t size = part_size(numel) / n_replicas();
  const auto [first, end] = held(numel);
  const int64_t begin = std::min(end, first + size * (replicas_ ? replicas_->rank() : 0));
  return {begin, std::min(end, begin + size)};
}

Tensor Sharing::own_stretch(const Tensor& part) const {
  return replicas_ ? piece(part, *replicas_) : part;
}

size_t Sharing::add(const Tensor& part) {
  blocks_.push_back({part, {}, {}, {}});
  return blocks_.size() - 1;
}

void Sharing::set_gradient(size_t block, const Tensor& gradient) {
  blocks_[block].gradient = gradient;
}

void Sharing::publish(size_t block) {
  if (!replicas_) return;
  auto& of = blocks_[block];
  of.publication = replicas_->all_gather(of.part, own_stretch(of.part));
}

void Sharing::begin_pass(bool sums_up) {
  drop_prefetched();
  sums_up_ = sums_up;
  previous_order_ = std::exchange(order_, {});
}

Sharing::Prefetched Sharing::start_gather(size_t block) {
  wait_published(block);
  const auto& part = blocks_[block].part;
  const auto whole = torch::empty({shards_->size() * part.numel()}, part.options());
  return {block, whole, shards_->all_gather(whole, part)};
}

void Sharing::drop_prefetched() {
  if (prefetched_) prefetched_->gather.wait();
  prefetched_.reset();
}

Tensor Sharing::whole(size_t block) {
  if (!shards_) {
    wait_published(block);
    return blocks_[block].part;
  }
  if (prefetched_ && prefetched_->block != block) drop_prefetched();
  if (!prefetched_) prefetched_ = start_gather(block);
  prefetched_->gather.wait();
  const auto whole = prefetched_->whole;
  prefetched_.reset();
  const size_t position = order_.size();
  order_.push_back(block);
  const bool repeats = position < previous_order_.size() && previous_order_[position] == block;
  if (repeats && position + 1 < previous_order_.size())
    prefetched_ = start_gather(previous_order_[position + 1]);
  return whole;
}

Tensor Sharing::gradient_buffer(size_t block) {
  auto& of = blocks_[block];
  if (!shards_) return of.gradient;
  if (!of.unreduced.defined()) {
    finish_shard_sum();  // frees its unreduced gradient before the next is allocated
    of.unreduced = torch::zeros({shards_->size() * of.gradient.numel()}, of.gradient.options());
  }
  return of.unreduced;
}

Sharing::Reduction Sharing::start_exchange(Ranks& ranks, size_t block, const Tensor& sent) const {
  const auto travelling = sent.scalar_type() == torch::kFloat64 ? sent : sent.to(wire_);
  const auto received = torch::empty_like(travelling);
  return {block, piece(sent, ranks), received, ranks.all_to_all(received, travelling)};
}

void Sharing::reduce(size_t block) {
  if (!shards_) return sums_up_ ? start_replica_sum(block) : void();
  finish_shard_sum();
  shard_sum_ = start_exchange(*shards_, block, std::exchange(blocks_[block].unreduced, {}));
}

void Sharing::finish_shard_sum() {
  if (!shard_sum_) return;
  auto& [block, own, received, exchange] = *shard_sum_;
  exchange.wait();
  add_received(own, received, *shards_, sums_);
  kernels::accumulate_(blocks_[block].gradient, own);
  const size_t summed = block;
  shard_sum_.reset();
  if (sums_up_) start_replica_sum(summed);
}

void Sharing::start_replica_sum(size_t block) {
  if (!replicas_) return;
  finish_replica_sum();
  replica_sum_ = start_exchange(*replicas_, block, blocks_[block].gradient);
}

void Sharing::finish_replica_sum() {
  if (!replica_sum_) return;
  replica_sum_->exchange.wait();
  add_received(replica_sum_->own, replica_sum_->received, *replicas_, sums_);
  replica_sum_.reset();
}

void Sharing::finish() {
  finish_shard_sum();
  finish_replica_sum();
  drop_prefetched();
  for (size_t block = 0; block < blocks_.size(); ++block) wait_published(block);
}

}  // namespace regroup
