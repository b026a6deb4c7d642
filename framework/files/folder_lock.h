// framework/files/folder_lock.h: keeps other processes out of a folder while one works in it.
#pragma once

#include <filesystem>

#include "framework/files/file_descriptor.h"

namespace regroup {

/// Holds an exclusive flock(2) on a folder, which the system releases with the process, however
/// that ends. The lock is the folder's own and goes with it when it is renamed. Where a file system
/// has no locks for folders (some network ones) nobody is kept out.
class FolderLock {
 public:
  /// Does not wait. Throws a request error when the lock is held already, by this process too, and
  /// Error when the folder cannot be opened.
  explicit FolderLock(const std::filesystem::path& folder);

 private:
  FileDescriptor descriptor_;
};

}  // namespace regroup
