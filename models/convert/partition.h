// models/convert/partition.h: searches for the best way to divide heads into groups.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace regroup {

/// Groups of equal size that together hold each of 0 .. n - 1 once.
using Partition = std::vector<std::vector<int64_t>>;

/// The partition with the least sum of loss(group), in groups as large as start's. Exact (dynamic
/// programming over subsets) where there are few enough groups to evaluate. Otherwise members of
/// different groups are exchanged while that lowers the sum of the losses of all pairs within
/// groups, and the result is returned if it is better than start. Groups are sorted by their first
/// member, and members within a group.
Partition best_partition(const Partition& start,
                         const std::function<double(const std::vector<int64_t>&)>& loss);

}  // namespace regroup
