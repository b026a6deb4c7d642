#include "models/convert/partition.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "framework/tensors/random.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

/// A number for each group that depends on nothing but its members.
double arbitrary_loss(const std::vector<int64_t>& group) {
  return static_cast<double>(purpose_seed(1, c10::Join(",", group)) % 1000);
}

double total_loss(const Partition& partition) {
  double sum = 0;
  for (const auto& group : partition) sum += arbitrary_loss(group);
  return sum;
}

Partition neighbours(int64_t n, int64_t group_size) {
  Partition partition;
  for (int64_t head = 0; head < n; ++head) {
    if (head % group_size == 0) partition.emplace_back();
    partition.back().push_back(head);
  }
  return partition;
}

/// The least loss of all partitions: every order of the members, cut into groups.
double least_loss(int64_t n, int64_t group_size) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  double least = std::numeric_limits<double>::infinity();
  do {
    Partition partition;
    for (size_t i = 0; i < order.size(); i += static_cast<size_t>(group_size)) {
      partition.emplace_back(order.begin() + static_cast<int64_t>(i),
                             order.begin() + static_cast<int64_t>(i) + group_size);
      std::sort(partition.back().begin(), partition.back().end());
    }
    least = std::min(least, total_loss(partition));
  } while (std::next_permutation(order.begin(), order.end()));
  return least;
}

bool holds_every_member_once(const Partition& partition, int64_t n) {
  std::vector<int64_t> members;
  for (const auto& group : partition) members.insert(members.end(), group.begin(), group.end());
  std::sort(members.begin(), members.end());
  std::vector<int64_t> expected(static_cast<size_t>(n));
  std::iota(expected.begin(), expected.end(), 0);
  return members == expected;
}

TEST_CASE("the partition of few heads is the best of all", "[convert]") {
  const auto [n, group_size] = GENERATE(std::pair<int64_t, int64_t>{4, 2}, std::pair{6, 2},
                                        std::pair{6, 3}, std::pair{8, 4}, std::pair{8, 2});
  const auto best = best_partition(neighbours(n, group_size), arbitrary_loss);
  CHECK(holds_every_member_once(best, n));
  CHECK(static_cast<int64_t>(best.front().size()) == group_size);
  CHECK(total_loss(best) == least_loss(n, group_size));
}

TEST_CASE("the search among many heads finds groups that were scattered", "[convert]") {
  constexpr int64_t kHeads = 32, kGroups = 8;                // too many ways to try all
  const auto loss = [](const std::vector<int64_t>& group) {  // pairs of another kind
    double strangers = 0;
    for (const int64_t a : group) {
      for (const int64_t b : group) strangers += a % kGroups != b % kGroups;
    }
    return strangers;
  };
  const auto found = best_partition(neighbours(kHeads, kHeads / kGroups), loss);
  CHECK(holds_every_member_once(found, kHeads));
  for (const auto& group : found) CHECK(loss(group) == 0);
}

TEST_CASE("the search among many heads is never worse than neighbours", "[convert]") {
  const auto start = neighbours(24, 6);
  CHECK(total_loss(best_partition(start, arbitrary_loss)) <= total_loss(start));
}

}  // namespace
}  // namespace regroup
