// framework/files/hdf5_tensors.h: the datasets of an HDF5 file's root as a file of tensors.
#pragma once

#include <map>

#include "framework/files/hdf5_file.h"
#include "framework/files/tensor_file.h"

namespace regroup {

/// Every member of the root must be a dataset.
class Hdf5Tensors : public TensorFile {
 public:
  /// Throws Error as Hdf5File::open and Hdf5File::dataset do.
  static Hdf5Tensors open(const std::filesystem::path& file);

  const std::filesystem::path& path() const override { return path_; }
  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override { return datasets_.contains(name); }
  const std::vector<int64_t>& shape(const std::string& name) const override;
  c10::ScalarType dtype(const std::string& name) const override;
  /// A copy of the file's values.
  at::Tensor tensor(const std::string& name) const override;

 private:
  std::filesystem::path path_;
  std::map<std::string, Hdf5Dataset> datasets_;
};

}  // namespace regroup
