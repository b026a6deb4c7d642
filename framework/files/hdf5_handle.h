// framework/files/hdf5_handle.h: ownership of an HDF5 identifier. Its source is hdf5_library.cpp,
// because closing takes that file's lock.
#pragma once

#include <cstdint>
#include <utility>

namespace regroup {

/// An HDF5 identifier that closes itself.
class Hdf5Handle {
 public:
  using Id = int64_t;  // hid_t, so that this header needs no HDF5 header
  using Close = int (*)(Id);
  Hdf5Handle() = default;
  Hdf5Handle(Id id, Close close) : id_(id), close_(close) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept { *this = std::move(other); }
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;
  ~Hdf5Handle() { reset(); }

  Id id() const { return id_; }
  Id release() { return std::exchange(id_, -1); }
  void reset();

 private:
  Id id_ = -1;
  Close close_ = nullptr;
};

}  // namespace regroup
