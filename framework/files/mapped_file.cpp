#include "framework/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"

namespace regroup {
namespace {

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw Error(file.string(), what, "Check the path and its permissions.");
}

std::string reason() { return std::generic_category().message(errno); }

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(const std::filesystem::path& file) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  const FileDescriptor descriptor(file, O_RDONLY | O_NONBLOCK);
  if (!descriptor.is_open()) fail(file, "cannot open: " + reason());
  struct stat status {};
  if (::fstat(descriptor.value(), &status) != 0) fail(file, "cannot read its size: " + reason());
  if (!S_ISREG(status.st_mode)) fail(file, "is not a regular file");
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return std::shared_ptr<MappedFile>(new MappedFile(file, nullptr, 0));
  // MAP_NORESERVE: a writable private map would otherwise count as memory in full.
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                      descriptor.value(), 0);
  if (data == MAP_FAILED) fail(file, "cannot map " + std::to_string(size) + " bytes: " + reason());
  return std::shared_ptr<MappedFile>(new MappedFile(file, static_cast<uint8_t*>(data), size));
}

void MappedFile::release(size_t begin, size_t end) const {
  static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) ::madvise(data_ + first, last - first, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace regroup
