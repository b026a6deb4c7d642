#include "framework/files/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <system_error>

#include "framework/errors/error.h"

namespace regroup {

FolderLock::FolderLock(const std::filesystem::path& folder)
    : descriptor_(folder, O_RDONLY | O_DIRECTORY) {
  if (!descriptor_.is_open()) {
    throw Error(folder.string(), "cannot open: " + std::generic_category().message(errno),
                "Check the path and its permissions.");
  }
  if (::flock(descriptor_.value(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  throw request_error(folder.string(), "is in use by another regroup process",
                      "Wait for it or stop it.");
}

}  // namespace regroup
