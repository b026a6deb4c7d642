#include "framework/files/scratch_tensor.h"

#include <c10/util/accumulate.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"
#include "framework/text/human.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& folder, int64_t bytes, int code) {
  throw Error(folder.string(),
              c10::str("has no room for ", human_bytes(static_cast<double>(bytes)),
                       " of working data: ", std::generic_category().message(code)),
              "Free disk space there, or give fewer calibration tokens.");
}

/// An open file whose name was removed.
FileDescriptor nameless_file(const fs::path& folder, int64_t bytes) {
  std::string name = folder / ".scratch.XXXXXX";  // several processes may create one there
  FileDescriptor descriptor(::mkostemp(name.data(), O_CLOEXEC));
  if (!descriptor.is_open()) fail(folder, bytes, errno);
  fs::remove(name);
  // Reserve the space now: a write to mapped memory on a full disk would kill the process.
  if (const int code = ::posix_fallocate(descriptor.value(), 0, bytes); code != 0)
    fail(folder, bytes, code);
  return descriptor;
}

}  // namespace

torch::Tensor scratch_tensor(at::IntArrayRef shape, const fs::path& folder,
                             int64_t max_bytes_in_memory) {
  const auto options = torch::TensorOptions(torch::kFloat32);
  const int64_t bytes = c10::multiply_integers(shape) * static_cast<int64_t>(sizeof(float));
  if (bytes <= max_bytes_in_memory) return torch::empty(shape, options);
  const auto file = nameless_file(folder, bytes);
  const auto size = static_cast<size_t>(bytes);
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.value(), 0);
  if (data == MAP_FAILED) fail(folder, bytes, errno);
  return torch::from_blob(
      data, shape, [size](void* mapped) { ::munmap(mapped, size); }, options);
}

}  // namespace regroup
