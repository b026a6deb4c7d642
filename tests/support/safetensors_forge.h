// tests/support/safetensors_forge.h: safetensors files built byte by byte, for wrong headers.
#pragma once

#include <cstdint>
#include <string>

namespace regroup::testing {

inline std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(value >> shift & 0xff);
  return bytes;
}

/// A file with this header text and these data.
inline std::string forged(const std::string& header, const std::string& data) {
  return little_endian(header.size()) + header + data;
}

inline std::string from_hex(const std::string& digits) {
  std::string bytes;
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

}  // namespace regroup::testing
