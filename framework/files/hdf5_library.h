// framework/files/hdf5_library.h: what the HDF5 sources share: the lock, errors, small handles. Not
// for others.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <type_traits>

#include "framework/files/hdf5_file.h"

namespace regroup::hdf5 {

static_assert(std::is_same_v<hid_t, Hdf5Handle::Id>);

/// Holds the library for one call; HDF5's own printing of errors, a setting of each thread, is off.
class LibraryLock {
 public:
  LibraryLock();

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

/// Throws Error "where: cannot `action`: the library's innermost complaint".
[[noreturn]] void fail(const std::string& where, const std::string& action);

/// For identifiers and status codes alike, which are negative on failure.
template <typename T>
T check(T result, const std::string& where, const std::string& action) {
  if (result < 0) fail(where, action);
  return result;
}

Hdf5Handle property_list(hid_t kind);

/// "file: object", as errors name it.
inline std::string located(const std::string& file, const std::string& object) {
  return file + ": " + object;
}

}  // namespace regroup::hdf5
