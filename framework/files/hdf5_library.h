// framework/files/hdf5_library.h: the lock, errors and handles of the sources that call HDF5; not
// for other files.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <type_traits>

#include "framework/files/hdf5_handle.h"

namespace regroup::hdf5 {

static_assert(std::is_same_v<hid_t, Hdf5Handle::Id>);

/// Locks the library for one call, and switches off its error output in this thread.
class LibraryLock {
 public:
  LibraryLock();

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

/// Throws Error "where: cannot `action`: the library's innermost error".
[[noreturn]] void fail(const std::string& where, const std::string& action);

/// Returns result, an identifier or a status code. Throws, as fail, where it is negative.
template <typename T>
T check(T result, const std::string& where, const std::string& action) {
  if (result < 0) fail(where, action);
  return result;
}

Hdf5Handle property_list(hid_t kind);

/// "file: object", for errors.
inline std::string located(const std::string& file, const std::string& object) {
  return file + ": " + object;
}

}  // namespace regroup::hdf5
