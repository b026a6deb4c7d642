#include "framework/data/batches.h"

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>

#include <numeric>
#include <utility>

#include "framework/error.h"

namespace regroup {
namespace {

/// SplitMix64 (Steele, Lea and Flood 2014). The standard library's distributions and std::shuffle
/// differ between implementations; this does not.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t state) : state_(state) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

  /// 0 .. bound - 1, all equally likely: draws below 2^64 mod bound are thrown away.
  uint64_t below(uint64_t bound) {
    const uint64_t surplus = (0 - bound) % bound;
    uint64_t draw = next();
    while (draw < surplus) draw = next();
    return draw % bound;
  }

 private:
  uint64_t state_;
};

}  // namespace

std::vector<int64_t> seeded_permutation(int64_t n, uint64_t seed, uint64_t stream) {
  // Mixed before they meet, so that neighbouring seeds and streams have nothing in common.
  SplitMix64 random(SplitMix64(seed).next() ^ SplitMix64(~stream).next());
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

Batches::Batches(const TokenSplit& split, int64_t seq_len, std::optional<uint64_t> shuffle_seed)
    : split_(split),
      seq_len_(seq_len),
      n_windows_((split.n_tokens() - 1) / seq_len),
      shuffle_seed_(shuffle_seed) {
  if (n_windows_ > 0) return;
  throw Error(split.where(),
              c10::str("has ", split.n_tokens(), " tokens, but one sequence of seq_len ", seq_len,
                       " needs ", seq_len + 1),
              "Use more data or a smaller seq_len.");
}

int64_t Batches::window_at(int64_t position) {
  const int64_t epoch = position / n_windows_;
  const int64_t place = position % n_windows_;
  if (!shuffle_seed_) return place;
  if (epoch != epoch_) {
    order_ = seeded_permutation(n_windows_, *shuffle_seed_, static_cast<uint64_t>(epoch));
    epoch_ = epoch;
  }
  return order_[static_cast<size_t>(place)];
}

at::Tensor Batches::gather(int64_t first_position, int64_t count) {
  auto batch = at::empty({count, seq_len_ + 1}, at::kLong);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t window = window_at(first_position + row);
    batch[row].copy_(split_.read(window * seq_len_, seq_len_ + 1));
  }
  return batch;
}

}  // namespace regroup
