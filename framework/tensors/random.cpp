#include "framework/tensors/random.h"

#include <ATen/CPUGeneratorImpl.h>

#include <numeric>
#include <utility>

namespace regroup {
namespace {

constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15ULL;  // times 2^64

/// The finaliser of SplitMix64.
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// SplitMix64 (Steele, Lea and Flood 2014), because the standard library's distributions and
/// std::shuffle differ between implementations.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t state) : state_(state) {}

  uint64_t next() { return mixed(state_ += kGoldenRatio); }

  /// Uniform in 0 .. bound - 1: rejects draws below 2^64 mod bound.
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

uint64_t purpose_seed(uint64_t seed, std::string_view purpose) {
  uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : purpose) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mixed(seed + kGoldenRatio * mixed(hash));
}

at::Generator seeded_generator(uint64_t seed, std::string_view purpose) {
  return at::detail::createCPUGenerator(purpose_seed(seed, purpose));
}

std::vector<int64_t> seeded_permutation(int64_t n, uint64_t seed, uint64_t stream) {
  // Both are mixed before they are combined, so that neighbouring seeds and streams are unrelated.
  SplitMix64 random(SplitMix64(seed).next() ^ SplitMix64(~stream).next());
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace regroup
