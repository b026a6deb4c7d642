#include "framework/tensors/random.h"

#include <map>
#include <set>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("a purpose's seed depends on the run's seed and the purpose", "[random]") {
  std::set<uint64_t> seeds;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (const char* purpose : {"", "a", "b", "ab", "ba"})
      seeds.insert(purpose_seed(seed, purpose));
  }
  CHECK(seeds.size() == 50);
  CHECK(purpose_seed(3, "a") == purpose_seed(3, "a"));
}

TEST_CASE("seeded permutations are the same with every build", "[random]") {
  // From another implementation of SplitMix64 and Fisher-Yates, in Python.
  CHECK(seeded_permutation(8, 0, 0) == std::vector<int64_t>{7, 0, 5, 6, 3, 1, 4, 2});
  CHECK(seeded_permutation(8, 42, 3) == std::vector<int64_t>{2, 7, 3, 0, 1, 5, 6, 4});
  CHECK(seeded_permutation(1, 5, 5) == std::vector<int64_t>{0});
  CHECK(seeded_permutation(0, 5, 5).empty());
}

TEST_CASE("seeded permutations of few elements are all about equally likely", "[random]") {
  std::map<std::vector<int64_t>, int> counts;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (uint64_t stream = 0; stream < 100; ++stream) ++counts[seeded_permutation(3, seed, stream)];
  }
  CHECK(counts.size() == 6);
  for (const auto& [permutation, count] : counts) {
    // 6,000 draws, 1,000 expected each: 5 standard deviations are 144.
    CHECK(count > 856);
    CHECK(count < 1144);
  }
}

}  // namespace
}  // namespace regroup
