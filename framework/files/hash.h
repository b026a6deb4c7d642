// framework/files/hash.h: a fast 64-bit hash, which shows whether two byte sequences are equal. It
// does not protect against forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace regroup {

class Hash {
 public:
  /// Adds bytes. The result depends on their order and on their division into calls.
  void add(const void* data, size_t size);
  void add(const std::string& text) { add(text.data(), text.size()); }
  void add(int64_t value) { add(&value, sizeof(value)); }
  /// 16 hexadecimal digits.
  std::string digits() const;

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15ULL;
};

}  // namespace regroup
