#include "framework/files/hdf5_library.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <charconv>
#include <system_error>

#include "framework/errors/error.h"

namespace regroup::hdf5 {
namespace {

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

herr_t keep_innermost(unsigned, const H5E_error2_t* error, void* text) {
  auto& description = *static_cast<std::string*>(text);
  if (description.empty() && error->desc != nullptr) description = error->desc;
  return 0;
}

/// The system's reason where the library reports one ("errno = 28, …"), else what it says, on one
/// line.
std::string shortened(const std::string& description) {
  const std::string mark = "errno = ";
  const auto place = description.find(mark);
  int error_number = 0;
  if (place != std::string::npos) {
    const char* const end = description.data() + description.size();
    std::from_chars(description.data() + place + mark.size(), end, error_number);
  }
  if (error_number > 0) return std::generic_category().message(error_number);
  return description.substr(0, std::min<size_t>(200, description.find('\n')));
}

}  // namespace

LibraryLock::LibraryLock() : lock_(library_mutex()) {
  // Handles close themselves, so there is nothing to do at exit, where the library crashes on what
  // a damaged file left in it. This must come before any other call.
  [[maybe_unused]] static const herr_t no_exit_handler = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

void fail(const std::string& where, const std::string& action) {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
  H5Eclear2(H5E_DEFAULT);
  throw Error(where, c10::str("cannot ", action, reason.empty() ? "" : ": ", shortened(reason)),
              "Check the file, its permissions and the free space of its disk.");
}

Hdf5Handle property_list(hid_t kind) {
  return {check(H5Pcreate(kind), "HDF5", "make a property list"), H5Pclose};
}

}  // namespace regroup::hdf5

namespace regroup {

Hdf5Handle& Hdf5Handle::operator=(Hdf5Handle&& other) noexcept {
  if (this == &other) return *this;
  reset();
  id_ = std::exchange(other.id_, -1);
  close_ = std::exchange(other.close_, nullptr);
  return *this;
}

void Hdf5Handle::reset() {
  if (id_ < 0) return;
  const hdf5::LibraryLock lock;
  close_(std::exchange(id_, -1));
}

}  // namespace regroup
