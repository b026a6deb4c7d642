// framework/files/file_descriptor.h: a file descriptor that closes itself, and writing all bytes to
// one.
#pragma once

#include <filesystem>
#include <string_view>
#include <utility>

namespace regroup {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// Takes over what a system call gave; negative: none.
  explicit FileDescriptor(int value) : value_(value) {}
  /// open(2) with O_CLOEXEC. Where that fails is_open() is false and errno says why.
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

/// write(2) until all bytes are written. Returns false where that fails, and errno says why.
bool write_all(int descriptor, std::string_view bytes);

}  // namespace regroup
