// framework/files/hash.h: a quick 64-bit hash of bytes, for telling whether two things are the
// same; no defence against forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace regroup {

class Hash {
 public:
  /// Adds bytes; the result depends on their order and on how they were cut into calls.
  void add(const void* data, size_t size);
  void add(const std::string& text) { add(text.data(), text.size()); }
  void add(int64_t value) { add(&value, sizeof(value)); }
  /// 16 hexadecimal digits.
  std::string digits() const;

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15ULL;
};

}  // namespace regroup
