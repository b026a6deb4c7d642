#include "framework/random.h"

#include <ATen/CPUGeneratorImpl.h>

namespace regroup {
namespace {

/// The finaliser of splitmix64 (Steele et al. 2014).
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t purpose_seed(uint64_t seed, std::string_view purpose) {
  uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : purpose) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mixed(seed + 0x9e3779b97f4a7c15ULL * mixed(hash));
}

at::Generator seeded_generator(uint64_t seed, std::string_view purpose) {
  return at::detail::createCPUGenerator(purpose_seed(seed, purpose));
}

}  // namespace regroup
