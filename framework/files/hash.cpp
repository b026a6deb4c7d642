#include "framework/files/hash.h"

#include <cinttypes>
#include <cstdio>

namespace regroup {
namespace {

uint64_t step(uint64_t state, uint64_t word) {
  state = (state ^ word) * 0xff51afd7ed558ccdULL;
  return state ^ (state >> 32);
}

}  // namespace

void Hash::add(const void* data, size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint64_t word = 0;
  size_t i = 0;
  for (; i + sizeof(word) <= size; i += sizeof(word)) {
    std::memcpy(&word, bytes + i, sizeof(word));
    state_ = step(state_, word);
  }
  word = 0;
  if (i < size) std::memcpy(&word, bytes + i, size - i);
  state_ = step(step(state_, word), size);
}

std::string Hash::digits() const {
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, state_);
  return text;
}

}  // namespace regroup
