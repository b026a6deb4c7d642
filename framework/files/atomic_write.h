// framework/files/atomic_write.h: writes files and folders so that they are complete or absent:
// under a temporary name, then fsync and rename.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "framework/files/file_descriptor.h"

namespace regroup {

/// Replaces the file's contents in one step; readers see the old or the new bytes, never a mixture.
/// Creates missing parent folders. Throws Error with the path and the system's reason.
void write_file_atomically(const std::filesystem::path& file, std::string_view contents);

/// Writes the contents of one file to another in one step, as write_file_atomically does. The
/// copy's mode follows the umask, whatever that of the source is.
void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to);

/// Throws a request Error where no file can be written at that path: so that a job says so before
/// it works. A folder that is missing would be made.
void require_writable(const std::filesystem::path& file);

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
  size_t unflushed_ = 0;  // bytes
  bool committed_ = false;
};

/// A folder filled under a temporary name beside its target.
class AtomicFolder {
 public:
  /// Creates the temporary folder, and missing parents of the target. Removes temporary folders of
  /// this target whose process was killed on this machine.
  explicit AtomicFolder(const std::filesystem::path& target);
  /// A folder that several processes fill, each through an AtomicFolder with the same target and
  /// launch_id. One of them commits it when all are done. An uncommitted folder stays until
  /// remove_leftovers, because other processes may still write to it.
  AtomicFolder(const std::filesystem::path& target, const std::string& launch_id);
  /// Removes the temporary folder, unless it was committed or several processes fill it.
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& target() const { return target_; }
  /// Write here until commit.
  const std::filesystem::path& path() const { return temporary_; }

  /// Calls fsync on everything in the folder and renames it to the target, which must be absent or
  /// an empty folder.
  void commit();

  /// As commit(), but the target may be a folder with contents, which is removed after the new
  /// folder has taken its place.
  void commit_replacing();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool is_shared_ = false;
  bool committed_ = false;
};

/// Removes the temporary files and folders that interrupted writers left in the folder. Call it
/// only where no other process writes. The folder may be absent.
void remove_leftovers(const std::filesystem::path& folder);

/// Removes the temporary files and folders of this process, of which none can be committed any
/// more: a commit waits for ever. True if there were any. For a process that ends at once, from any
/// thread.
bool remove_unfinished_and_block_commits();

/// True for the name of a temporary file or folder of these classes.
bool is_temporary_name(std::string_view name);

}  // namespace regroup
