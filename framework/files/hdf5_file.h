// framework/files/hdf5_file.h: HDF5 files of tensors and attributes, for token data, scores and
// optimizer state.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "framework/files/atomic_write.h"
#include "framework/files/hdf5_handle.h"

namespace regroup {

// HDF5 1.10 is not thread safe, so every function of these classes takes one process-wide lock.

/// A dataset whose shape and storage were checked when it was opened: its size is compared with the
/// bytes that the file holds.
class Hdf5Dataset {
 public:
  const std::string& name() const { return name_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  c10::ScalarType dtype() const { return dtype_; }

  /// The whole dataset. Throws Error when reading fails.
  at::Tensor read() const;
  /// Rows [begin, begin + count) of the first axis; they must exist.
  at::Tensor read_rows(int64_t begin, int64_t count) const;

 private:
  friend class Hdf5File;
  Hdf5Dataset() = default;

  std::string file_;
  std::string name_;
  Hdf5Handle handle_;
  std::vector<int64_t> shape_;
  c10::ScalarType dtype_ = c10::ScalarType::Undefined;
};

/// One file, opened for reading or created for writing. Object names are paths such as
/// "/train/tokens"; "/" is the root group. bfloat16, float16 and bool tensors are stored as
/// unsigned integers of their bits, with their dtype in the attribute "torch_dtype".
class Hdf5File {
 public:
  /// Opens for reading, without HDF5's file locks. Throws Error when the file is missing, truncated
  /// or not an HDF5 file.
  static Hdf5File open(const std::filesystem::path& file);
  /// Starts a file under a temporary name beside its target; close() puts it in place.
  static Hdf5File create(const std::filesystem::path& file);
  /// Flushes, fsyncs and renames a created file, which otherwise is deleted.
  void close();

  std::string where() const { return where_; }
  bool exists(const std::string& name) const;
  /// The names of a group's members, sorted; the group must exist.
  std::vector<std::string> members(const std::string& group) const;

  /// Opens a dataset. Throws Error when it is absent, does not hold numbers, keeps its data outside
  /// the file, or claims more elements than its stored bytes can hold.
  Hdf5Dataset dataset(const std::string& name) const;
  /// dataset(name).read().
  at::Tensor read(const std::string& name) const { return dataset(name).read(); }

  /// Makes a dataset (and the groups above it) with the tensor's dtype, shape and values; any
  /// device.
  void write(const std::string& name, const at::Tensor& tensor);

  /// Attributes of a group or dataset. Reading returns nullopt where the attribute is absent and
  /// throws Error where it has another type.
  std::optional<int64_t> integer_attribute(const std::string& object,
                                           const std::string& name) const;
  std::optional<std::string> string_attribute(const std::string& object,
                                              const std::string& name) const;
  void set_attribute(const std::string& object, const std::string& name, int64_t value);
  void set_attribute(const std::string& object, const std::string& name, const std::string& value);

 private:
  Hdf5File() = default;
  Hdf5Handle create_dataset(const std::string& name, const at::Tensor& bits);
  void write_rows(const Hdf5Handle& dataset, const std::string& name, const at::Tensor& bits);

  std::string where_;
  std::unique_ptr<AtomicFile> target_;  // of a created file
  Hdf5Handle handle_;                   // closed before target_ is dropped
};

}  // namespace regroup
