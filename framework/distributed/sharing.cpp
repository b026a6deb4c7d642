#include "framework/distributed/sharing.h"

#include <ATen/ceil_div.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"

namespace regroup {
namespace {

using torch::Tensor;

/// sum += the rows of x, in order, in sum's precision or in `dtype` where that is narrower: [rows *
/// n] onto [n].
void add_rows(const Tensor& sum, const Tensor& x, torch::ScalarType dtype) {
  const auto rows = x.view({-1, sum.numel()});
  if (dtype == torch::kFloat32) {
    for (const auto& row : rows.unbind()) kernels::accumulate_(sum, row);
  } else {
    sum.add_(rows.to(dtype).sum(0));
  }
}

}  // namespace

Sharing::Sharing(std::shared_ptr<Ranks> shards, std::shared_ptr<Ranks> replicas,
                 torch::ScalarType wire, torch::ScalarType sums)
    : shards_(std::move(shards)), replicas_(std::move(replicas)), wire_(wire), sums_(sums) {}

int64_t part_size(int64_t numel, int64_t shards, int64_t replicas) {
  return at::ceil_div<int64_t>(at::ceil_div<int64_t>(numel, shards), replicas) * replicas;
}

Range Sharing::part(int64_t numel) const {
  const int64_t size = part_size(numel);
  const int64_t begin = std::min(numel, size * (shards_ ? shards_->rank() : 0));
  return {begin, std::min(numel, begin + size)};
}

size_t Sharing::add(const Tensor& part) {
  blocks_.push_back({part, {}, {}});
  return blocks_.size() - 1;
}

void Sharing::set_gradient(size_t block, const Tensor& gradient) {
  blocks_[block].gradient = gradient;
}

void Sharing::begin_pass(bool sums_up) {
  drop_prefetched();
  sums_up_ = sums_up;
  previous_order_ = std::exchange(order_, {});
}

Sharing::Prefetched Sharing::start_gather(size_t block) {
  const auto& part = blocks_[block].part;
  const auto whole = torch::empty({shards_->size() * part.numel()}, part.options());
  return {block, whole, shards_->gather(whole, part)};
}

void Sharing::drop_prefetched() {
  if (prefetched_) prefetched_->gather.wait();
  prefetched_.reset();
}

Tensor Sharing::whole(size_t block) {
  if (!shards_) return blocks_[block].part;
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
  auto& [part, gradient, unreduced] = blocks_[block];
  if (!shards_) return gradient;
  if (!unreduced.defined()) {
    finish_shard_sum();  // so that its unreduced gradient is not there beside this one
    unreduced = torch::zeros({shards_->size() * gradient.numel()}, gradient.options());
  }
  return unreduced;
}

Sharing::Reduction Sharing::start_exchange(Ranks& ranks, size_t block, const Tensor& sent) const {
  const auto travelling = sent.scalar_type() == torch::kFloat64 ? sent : sent.to(wire_);
  const auto received = torch::empty_like(travelling);
  return {block, received, ranks.exchange(received, travelling)};
}

void Sharing::reduce(size_t block) {
  if (!shards_) return sums_up_ ? start_replica_sum(block) : void();
  finish_shard_sum();
  shard_sum_ = start_exchange(*shards_, block, std::exchange(blocks_[block].unreduced, {}));
}

void Sharing::finish_shard_sum() {
  if (!shard_sum_) return;
  shard_sum_->exchange.wait();
  const auto& gradient = blocks_[shard_sum_->block].gradient;
  add_rows(gradient, shard_sum_->received, sums_);
  const size_t block = shard_sum_->block;
  shard_sum_.reset();
  if (sums_up_) start_replica_sum(block);
}

void Sharing::start_replica_sum(size_t block) {
  if (!replicas_) return;
  finish_replica_sum();
  replica_sum_ = start_exchange(*replicas_, block, blocks_[block].gradient);
}

void Sharing::finish_replica_sum() {
  if (!replica_sum_) return;
  replica_sum_->exchange.wait();
  const auto& gradient = blocks_[replica_sum_->block].gradient;
  const auto& received = replica_sum_->received;
  const auto own = torch::zeros({gradient.numel() / replicas_->size()}, gradient.options());
  add_rows(own, received, sums_);
  finish_gathering();
  const auto all = received.scalar_type() == gradient.scalar_type() ? gradient : received;
  gathering_ = {all, gradient, replicas_->gather(all, own.to(all.scalar_type()))};
  replica_sum_.reset();
}

void Sharing::finish_gathering() {
  if (!gathering_) return;
  gathering_->gather.wait();
  if (!gathering_->all.is_same(gathering_->gradient)) gathering_->gradient.copy_(gathering_->all);
  gathering_.reset();
}

void Sharing::finish() {
  finish_shard_sum();
  finish_replica_sum();
  finish_gathering();
  drop_prefetched();
}

}  // namespace regroup
