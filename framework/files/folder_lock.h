// framework/files/folder_lock.h: a lock for a folder that one process works in.
#pragma once

#include <filesystem>

#include "framework/files/file_descriptor.h"

namespace regroup {

/// Holds an exclusive flock(2) on a folder. The system releases it when the process ends, even by a
/// crash. The lock stays with the folder when it is renamed. On a file system without locks for
/// folders (some network ones) it has no effect.
class FolderLock {
 public:
  /// Does not wait. Throws a request error where the lock is held, by this or another process, and
  /// Error where the folder cannot be opened.
  explicit FolderLock(const std::filesystem::path& folder);

 private:
  FileDescriptor descriptor_;
};

}  // namespace regroup
