// framework/tensors/random.h: a separate seed for each purpose, so that no draw depends on the
// order of other draws.
#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace regroup {

/// A well-mixed seed that depends on the run's seed and on the purpose of the draw.
uint64_t purpose_seed(uint64_t seed, std::string_view purpose);

/// A CPU generator for one purpose, seeded by purpose_seed.
at::Generator seeded_generator(uint64_t seed, std::string_view purpose);

/// A permutation of 0 .. n - 1 that depends only on the seed and the stream's number, and is the
/// same with every compiler and library.
std::vector<int64_t> seeded_permutation(int64_t n, uint64_t seed, uint64_t stream);

}  // namespace regroup
