// framework/files/file_descriptor.h: a file descriptor that closes itself, and a write of all
// bytes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>
#include <utility>

namespace regroup {

/// Of a write to a file: Linux takes such pieces three times as fast as larger ones, for which it
/// allocates large folios.
constexpr size_t kBytesPerWrite = size_t{128} << 10;

class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// Takes ownership of the result of a system call; negative: none.
  explicit FileDescriptor(int value) : value_(value) {}
  /// open(2) with O_CLOEXEC. On failure is_open() is false and errno is set.
  FileDescriptor(const std::filesystem::path& file, int flags);
  FileDescriptor(FileDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~FileDescriptor();

  bool is_open() const { return value_ >= 0; }
  int value() const { return value_; }

 private:
  int value_ = -1;
};

/// write(2) until all bytes are written. On failure returns false and errno is set.
bool write_all(int descriptor, std::string_view bytes);

}  // namespace regroup
