// framework/files/mapped_file.h: maps a file's bytes into memory; writes never reach the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace regroup {

/// A private copy-on-write map of a whole file. Tensors that view it hold the shared_ptr.
class MappedFile {
 public:
  /// Throws Error when the file is missing, unreadable or not a regular file.
  static std::shared_ptr<MappedFile> open(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  /// Gives the memory of a byte range back; reading it again reads the file again. What was written
  /// to it is lost.
  void release(size_t begin, size_t end) const;

 private:
  MappedFile(std::filesystem::path path, uint8_t* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::filesystem::path path_;
  uint8_t* data_;  // null when the file is empty
  size_t size_;
};

}  // namespace regroup
