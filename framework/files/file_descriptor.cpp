#include "framework/files/file_descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace regroup {

FileDescriptor::FileDescriptor(const std::filesystem::path& file, int flags) {
  constexpr mode_t kModeBeforeUmask = 0666;
  value_ = ::open(file.c_str(), flags | O_CLOEXEC, kModeBeforeUmask);
}

FileDescriptor::~FileDescriptor() {
  if (is_open()) ::close(value_);
}

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace regroup
