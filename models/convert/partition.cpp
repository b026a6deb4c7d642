#include "models/convert/partition.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <map>

namespace regroup {
namespace {

using Members = std::vector<int64_t>;
using Loss = std::function<double(const Members&)>;

constexpr int64_t kMostMembers = 16;   // of an exact search, which keeps a number for each subset
constexpr double kMostGroups = 4000;   // that an exact search evaluates
constexpr double kNoticeable = 1e-12;  // gain of an exchange, as a share of the sum

double n_choose_k(int64_t n, int64_t k) {
  double result = 1;
  for (int64_t i = 1; i <= k; ++i)
    result *= static_cast<double>(n - k + i) / static_cast<double>(i);
  return result;
}

Members members_of(uint32_t mask) {
  Members members;
  for (; mask != 0; mask &= mask - 1) members.push_back(std::countr_zero(mask));
  return members;
}

/// Recursion: the lowest unassigned head must be in some group, so try every group that contains
/// it.
class ExactSearch {
 public:
  ExactSearch(int64_t n, int64_t group_size, const Loss& loss)
      : group_size_(group_size), loss_(loss), all_((uint32_t{1} << n) - 1) {}

  Partition best() {
    least(all_);
    Partition partition;
    for (uint32_t left = all_; left != 0; left &= ~best_.at(left).group)
      partition.push_back(members_of(best_.at(left).group));
    return partition;
  }

 private:
  struct Best {
    double sum;
    uint32_t group;
  };

  double least(uint32_t left) {
    if (left == 0) return 0;
    const auto known = best_.find(left);
    if (known != best_.end()) return known->second.sum;
    Best best{std::numeric_limits<double>::infinity(), 0};
    const uint32_t lowest = left & -left;
    complete(lowest, left & ~lowest, group_size_ - 1, [&](uint32_t group) {
      const double sum = loss_of(group) + least(left & ~group);
      if (best.group == 0 || sum < best.sum) best = {sum, group};
    });
    best_[left] = best;
    return best.sum;
  }

  /// Calls visit with group and every choice of `missing` more members out of `from`.
  template <typename Visit>
  static void complete(uint32_t group, uint32_t from, int64_t missing, const Visit& visit) {
    if (missing == 0) return visit(group);
    while (std::popcount(from) >= missing) {
      const uint32_t next = from & -from;
      from &= ~next;
      complete(group | next, from, missing - 1, visit);
    }
  }

  double loss_of(uint32_t group) {
    const auto known = losses_.find(group);
    if (known != losses_.end()) return known->second;
    return losses_[group] = loss_(members_of(group));
  }

  int64_t group_size_;
  const Loss& loss_;
  uint32_t all_;
  std::map<uint32_t, double> losses_;
  std::map<uint32_t, Best> best_;
};

/// Losses of all pairs, [n][n], 0 on the diagonal.
std::vector<std::vector<double>> pair_losses(int64_t n, const Loss& loss) {
  std::vector<std::vector<double>> losses(static_cast<size_t>(n),
                                          std::vector<double>(static_cast<size_t>(n)));
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = a + 1; b < n; ++b) {
      losses[static_cast<size_t>(a)][static_cast<size_t>(b)] = loss({a, b});
      losses[static_cast<size_t>(b)][static_cast<size_t>(a)] =
          losses[static_cast<size_t>(a)][static_cast<size_t>(b)];
    }
  }
  return losses;
}

/// Exchanges two members of different groups, the best exchange first, while that lowers the sum of
/// pair losses within groups.
Partition exchanged(Partition partition, int64_t n, const Loss& loss) {
  const auto pairs = pair_losses(n, loss);
  const auto pair = [&](int64_t a, int64_t b) {
    return pairs[static_cast<size_t>(a)][static_cast<size_t>(b)];
  };
  const auto to_group = [&](int64_t member, const Members& group, int64_t without) {
    double sum = 0;
    for (const int64_t other : group) {
      if (other != without) sum += pair(member, other);
    }
    return sum;
  };
  double total = 0;
  for (const auto& group : partition) {
    for (const int64_t member : group) total += to_group(member, group, member) / 2;
  }
  while (true) {
    double gain = kNoticeable * total;
    int64_t *first = nullptr, *second = nullptr;
    for (size_t g = 0; g < partition.size(); ++g) {
      for (size_t h = g + 1; h < partition.size(); ++h) {
        for (int64_t& a : partition[g]) {
          for (int64_t& b : partition[h]) {
            const double gained = to_group(a, partition[g], a) + to_group(b, partition[h], b) -
                                  to_group(a, partition[h], b) - to_group(b, partition[g], a);
            if (gained <= gain) continue;
            gain = gained;
            first = &a;
            second = &b;
          }
        }
      }
    }
    if (first == nullptr) break;
    std::swap(*first, *second);
    total -= gain;
  }
  return partition;
}

double total_loss(const Partition& partition, const Loss& loss) {
  double sum = 0;
  for (const auto& group : partition) sum += loss(group);
  return sum;
}

Partition sorted(Partition partition) {
  for (auto& group : partition) std::sort(group.begin(), group.end());
  std::sort(partition.begin(), partition.end());
  return partition;
}

}  // namespace

Partition best_partition(const Partition& start, const Loss& loss) {
  const auto n_groups = static_cast<int64_t>(start.size());
  const auto group_size = static_cast<int64_t>(start.front().size());
  const int64_t n = n_groups * group_size;
  if (n_groups == 1 || group_size == 1) return start;
  if (n <= kMostMembers && n_choose_k(n, group_size) <= kMostGroups)
    return ExactSearch(n, group_size, loss).best();
  const auto found = sorted(exchanged(start, n, loss));
  return total_loss(found, loss) < total_loss(start, loss) ? found : start;
}

}  // namespace regroup
