// framework/files/atomic_write.h: files and folders that are complete or absent: write beside,
// fsync, rename.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "framework/files/file_descriptor.h"

namespace regroup {

/// Replaces the file's contents in one step; readers see the old or the new bytes, never a mixture.
/// Missing parent folders are made. Throws Error with the path and the system's reason.
void write_file_atomically(const std::filesystem::path& file, std::string_view contents);

/// A file written piece by piece under a temporary name beside its target.
class AtomicFile {
 public:
  /// Creates the temporary file. A target that is a symbolic link means the file that it points at.
  explicit AtomicFile(const std::filesystem::path& target);
  /// Removes the temporary file unless commit() succeeded.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::filesystem::path& target() const { return target_; }
  /// The name under which the file is written, for libraries that open files themselves.
  const std::filesystem::path& temporary() const { return temporary_; }

  /// Appends size bytes.
  void write(const void* data, size_t size);

  /// fsync, rename to the target, fsync the folder.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  FileDescriptor descriptor_;
  bool committed_ = false;
};

/// A folder filled under a temporary name beside its target.
class AtomicFolder {
 public:
  /// Makes the temporary folder (and missing parents of the target).
  explicit AtomicFolder(const std::filesystem::path& target);
  /// A folder that several processes fill, each through an AtomicFolder of the same target and
  /// meeting, one of which commits it when all are done. What is not committed is left for
  /// remove_leftovers: others may still write there.
  AtomicFolder(const std::filesystem::path& target, const std::string& meeting);
  /// Removes the temporary folder unless it was committed, or is one that several fill.
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& target() const { return target_; }
  /// Where to write until commit.
  const std::filesystem::path& path() const { return temporary_; }

  /// fsyncs all that is in the folder and renames it to the target, which must be absent or an
  /// empty folder.
  void commit();

  /// The same where the target may be a folder with contents: it is removed once the new one stands
  /// in its place.
  void commit_replacing();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool is_shared_ = false;
  bool committed_ = false;
};

/// Removes what interrupted writers left in the folder: every temporary file and folder of ours.
/// Call it only where no other process writes. A missing folder is fine.
void remove_leftovers(const std::filesystem::path& folder);

/// True for the name of a temporary file or folder of ours.
bool is_temporary_name(std::string_view name);

}  // namespace regroup
