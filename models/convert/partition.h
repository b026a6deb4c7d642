// models/convert/partition.h: searches over ways to divide things: heads into groups, and a budget
// of heads among layers.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace regroup {

/// Groups of equal size that hold 0 .. n - 1 once each.
using Partition = std::vector<std::vector<int64_t>>;

/// The partition into groups as large as start's with the least sum of loss(group). Exact by
/// dynamic programming over subsets where there are few enough groups to evaluate; else pairs are
/// exchanged between groups while that lowers the sum of the losses of all pairs within groups, and
/// the result is taken where it beats start. Groups are sorted by their first member, members
/// within.
Partition best_partition(const Partition& start,
                         const std::function<double(const std::vector<int64_t>&)>& loss);

/// One of a layer's choices: so many K/V heads at this error.
struct HeadChoice {
  int64_t n_kv_head;
  double error;
};

/// One choice a layer, with the least sum of errors of all that keep at most `budget` heads in
/// total (dynamic programming over layers); empty where even the least of each is more.
std::vector<int64_t> best_allocation(const std::vector<std::vector<HeadChoice>>& layers,
                                     int64_t budget);

}  // namespace regroup
