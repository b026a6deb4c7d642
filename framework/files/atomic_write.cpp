#include "framework/files/atomic_write.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "framework/errors/error.h"

namespace regroup {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTemporaryPrefix = ".regroup-tmp-";
constexpr size_t kBytesPerFlush = size_t{16} << 20;

/// The temporary files and folders of this process that are neither committed nor removed.
class Unfinished {
 public:
  /// Calls make, which makes a temporary file or folder and returns its path: a signal
  /// meets it listed here or not made.
  fs::path add(const std::function<fs::path()>& make) {
    const std::lock_guard lock(mutex_);
    return *paths_.insert(make()).first;
  }
  void remove(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    std::error_code ignored;
    fs::remove_all(path, ignored);
    paths_.erase(path);
  }
  /// Calls rename, after which the path is no longer a temporary one.
  void commit(const fs::path& path, const std::function<void()>& rename) {
    const std::lock_guard lock(mutex_);
    rename();
    paths_.erase(path);
  }
  bool remove_all_and_stay_locked() {
    mutex_.lock();
    std::error_code ignored;
    for (const auto& path : paths_) fs::remove_all(path, ignored);
    return !paths_.empty();
  }

 private:
  std::mutex mutex_;
  std::set<fs::path> paths_;
};

Unfinished& unfinished() {
  static auto* const paths = new Unfinished;  // never destroyed: writers may outlive main
  return *paths;
}

[[noreturn]] void fail(const fs::path& path, const std::string& action, int error_number) {
  std::string what_to_do = "Check the path and its permissions.";
  if (error_number == ENOSPC || error_number == EDQUOT) {
    what_to_do = "Free some space or choose another disk; what was there before is unchanged.";
  }
  throw Error(path.string(),
              "cannot " + action + ": " + std::generic_category().message(error_number),
              what_to_do);
}

/// The target without a trailing slash and with symbolic links resolved, so that a file beside it
/// is on the same file system and a rename replaces the target and not a link to it.
fs::path resolved(const fs::path& target) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(fs::absolute(target), error);
  if (error) fail(target, "resolve the path", error.value());
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename())
    throw Error(target.string(), "cannot be replaced", "Name a folder in it.");
  return path;
}

void make_parents(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) fail(path.parent_path(), "make the folder", error.value());
}

/// ".regroup-tmp-NAME-", with which the names of all temporary files and folders of a target start.
std::string temporary_start(const fs::path& target) {
  // The whole name must fit NAME_MAX (255 bytes).
  return std::string(kTemporaryPrefix) + target.filename().string().substr(0, 200) + "-";
}

/// A temporary name, "…-PID-COUNT", that is unique in this process; O_EXCL and mkdir refuse a name
/// that another process uses.
fs::path temporary_name_beside(const fs::path& target) {
  static std::atomic<int> counter{0};
  const std::string suffix = std::to_string(getpid()) + "-" + std::to_string(counter++);
  return target.parent_path() / (temporary_start(target) + suffix);
}

/// Calls make(path), which makes a file or folder beside the target or sets errno, until the name
/// is a new one.
fs::path make_temporary(const fs::path& target, const std::string& kind,
                        const std::function<bool(const fs::path&)>& make) {
  return unfinished().add([&] {
    make_parents(target);
    while (true) {
      const auto path = temporary_name_beside(target);
      if (make(path)) return path;
      if (errno != EEXIST) fail(target, "make " + kind + " beside it", errno);
    }
  });
}

/// The process that made the temporary name of a target; 0 for other names.
pid_t process_of(const std::string& name, const std::string& start) {
  if (!name.starts_with(start)) return 0;
  pid_t process = 0;
  const char* const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + start.size(), end, process);
  return error == std::errc() && rest != end && *rest == '-' ? process : 0;
}

/// Removes the target's temporary folders whose process was killed.
void remove_those_of_ended_processes(const fs::path& target) {
  const auto start = temporary_start(target);
  std::error_code ignored;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(target.parent_path(), ignored)) {
    const auto process = process_of(entry.path().filename().string(), start);
    if (process > 0 && ::kill(process, 0) != 0 && errno == ESRCH) found.push_back(entry.path());
  }
  for (const auto& folder : found) fs::remove_all(folder, ignored);
}

FileDescriptor opened(const fs::path& path, int flags) {
  FileDescriptor descriptor(path, flags);
  if (!descriptor.is_open()) fail(path, "open", errno);
  return descriptor;
}

/// Some file systems cannot fsync a folder and return EINVAL; they have nothing to flush.
void fsync_path(const fs::path& path) {
  const auto descriptor = opened(path, O_RDONLY);
  if (::fsync(descriptor.value()) != 0 && errno != EINVAL) fail(path, "flush to disk", errno);
}

void fsync_tree(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    if (!entry.is_symlink()) fsync_path(entry.path());
  }
  if (error) fail(folder, "list the folder", error.value());
  fsync_path(folder);
}

void rename_onto(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    const int error_number = errno;
    fail(to, "rename the finished " + from.filename().string() + " to it", error_number);
  }
}

/// Swaps two folders in one step where the file system supports that (all common local ones do);
/// otherwise by two renames, the first of which is undone when the second fails. The previous `to`
/// is then at `from`.
void exchange(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail(to, "put the new folder in its place", errno);
  const fs::path aside = temporary_name_beside(to);
  rename_onto(to, aside);
  if (::rename(from.c_str(), to.c_str()) != 0) {
    const int error_number = errno;
    rename_onto(aside, to);
    fail(to, "put the new folder in its place", error_number);
  }
  rename_onto(aside, from);
}

/// True for what is written in place, such as /dev/stdout.
bool is_stream(const fs::path& file) {
  std::error_code ignored;
  const auto status = fs::status(file, ignored);
  return fs::is_character_file(status) || fs::is_fifo(status);
}

}  // namespace

void write_file_atomically(const fs::path& file, std::string_view contents) {
  if (is_stream(file)) {
    const auto descriptor = opened(file, O_WRONLY);
    if (!write_all(descriptor.value(), contents)) fail(file, "write", errno);
    return;
  }
  AtomicFile atomic(file);
  atomic.write(contents.data(), contents.size());
  atomic.commit();
}

void require_writable(const fs::path& file) {
  if (is_stream(file)) return;
  std::error_code ignored;
  if (fs::is_directory(file, ignored))
    throw request_error(file.string(), "is a folder", "Name a file to write.");
  fs::path folder = resolved(file).parent_path();
  while (!fs::exists(folder, ignored) && folder != folder.root_path())
    folder = folder.parent_path();
  if (!fs::is_directory(folder, ignored)) {
    throw request_error(file.string(), "cannot be written: " + folder.string() + " is not a folder",
                        "Name another file.");
  }
  if (::access(folder.c_str(), W_OK | X_OK) == 0) return;
  throw request_error(
      file.string(),
      "cannot be written: " + folder.string() + ": " + std::generic_category().message(errno),
      "Check the path and its permissions.");
}

void copy_file_atomically(const fs::path& from, const fs::path& to) {
  const auto source = opened(from, O_RDONLY);
  AtomicFile copy(to);
  std::vector<char> piece(size_t{1} << 20);
  while (true) {
    const ssize_t count = ::read(source.value(), piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(from, "read", errno);
    if (count == 0) break;
    copy.write(piece.data(), static_cast<size_t>(count));
  }
  copy.commit();
}

AtomicFile::AtomicFile(const fs::path& target) : target_(resolved(target)) {
  std::error_code ignored;
  if (fs::is_directory(target_, ignored)) fail(target_, "write a file", EISDIR);
  temporary_ = make_temporary(target_, "a file", [&](const fs::path& path) {
    descriptor_ = FileDescriptor(path, O_CREAT | O_EXCL | O_WRONLY);
    return descriptor_.is_open();
  });
}

AtomicFile::~AtomicFile() {
  if (!committed_) unfinished().remove(temporary_);
}

void AtomicFile::write(const void* data, size_t size) {
  std::string_view bytes(static_cast<const char*>(data), size);
  for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), kBytesPerWrite))) {
    if (!write_all(descriptor_.value(), bytes.substr(0, kBytesPerWrite)))
      fail(target_, "write", errno);
    unflushed_ += std::min(bytes.size(), kBytesPerWrite);
    if (unflushed_ < kBytesPerFlush) continue;
    // The disk works while the caller does, rather than all at once in commit(). Only a hint.
    ::sync_file_range(descriptor_.value(), 0, 0, SYNC_FILE_RANGE_WRITE);
    unflushed_ = 0;
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_.value()) != 0) fail(target_, "flush to disk", errno);
  unfinished().commit(temporary_, [&] { rename_onto(temporary_, target_); });
  committed_ = true;
  fsync_path(target_.parent_path());
}

AtomicFolder::AtomicFolder(const fs::path& target) : target_(resolved(target)) {
  remove_those_of_ended_processes(target_);
  temporary_ = make_temporary(
      target_, "a folder", [](const fs::path& path) { return ::mkdir(path.c_str(), 0777) == 0; });
}

AtomicFolder::AtomicFolder(const fs::path& target, const std::string& launch_id)
    : target_(resolved(target)), is_shared_(true) {
  const auto name =
      std::string(kTemporaryPrefix) + target_.filename().string() + "-joint-" + launch_id;
  temporary_ = target_.parent_path() / name;
  std::error_code error;
  fs::create_directories(temporary_, error);
  if (error) fail(target_, "make a folder beside it", error.value());
}

AtomicFolder::~AtomicFolder() {
  if (!is_shared_ && !committed_) unfinished().remove(temporary_);
}

void AtomicFolder::commit() {
  fsync_tree(temporary_);
  unfinished().commit(temporary_, [&] { rename_onto(temporary_, target_); });
  committed_ = true;
  fsync_path(target_.parent_path());
}

void AtomicFolder::commit_replacing() {
  std::error_code ignored;
  if (!fs::exists(target_, ignored)) return commit();
  fsync_tree(temporary_);
  unfinished().commit(temporary_, [&] {
    exchange(temporary_, target_);
    committed_ = true;
    fsync_path(target_.parent_path());
    std::error_code error;
    fs::remove_all(temporary_, error);
    if (error) fail(temporary_, "remove the folder that was replaced", error.value());
  });
}

void remove_leftovers(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  fs::directory_iterator entries(folder, error);
  if (error) fail(folder, "list the folder", error.value());
  for (const auto& entry : entries) {
    if (!is_temporary_name(entry.path().filename().string())) continue;
    fs::remove_all(entry.path(), error);
    if (error) fail(entry.path(), "remove what an interrupted run left", error.value());
  }
}

bool remove_unfinished_and_block_commits() { return unfinished().remove_all_and_stay_locked(); }

bool is_temporary_name(std::string_view name) { return name.starts_with(kTemporaryPrefix); }

}  // namespace regroup
