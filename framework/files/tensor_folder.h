// framework/files/tensor_folder.h: the tensors of a model folder: one safetensors file, shards and
// their index, or one HDF5 file.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "framework/files/tensor_file.h"

namespace regroup {

/// The HDF5 file of a model folder that has no safetensors.
inline constexpr const char* kModelHdf5 = "model.h5";

/// The tensors of a model folder: model.safetensors, or the shards that
/// model.safetensors.index.json names, or model.h5.
class TensorFolder {
 public:
  /// folder: one, or an HDF5 file of tensors by itself. Checks every header and that index and
  /// shards agree. Throws Error when the folder holds none of these (pickled .bin files are refused
  /// with the reason), when the index names a path outside the folder, and when a tensor is missing
  /// from its shard or from the index. A link counts as the file that it points at, wherever that
  /// lies.
  static TensorFolder open(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return folder_; }
  /// The files that the tensors come from, the index among them, as paths in the folder.
  const std::set<std::string>& files() const { return files_; }
  /// Other safetensors files in the folder, sorted: nothing here reads them.
  std::vector<std::string> unread_files() const;
  /// The tensors' names, sorted.
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return shard_of_.count(name) > 0; }
  const std::vector<int64_t>& shape(const std::string& name) const {
    return shard(name).shape(name);
  }
  c10::ScalarType dtype(const std::string& name) const { return shard(name).dtype(name); }
  /// As TensorFile::tensor. These three throw Error for a name that the folder lacks.
  at::Tensor tensor(const std::string& name) const;

 private:
  template <typename File>
  static TensorFolder of_one_file(const std::filesystem::path& path, File file);
  static TensorFolder of_shards(const std::filesystem::path& folder);
  const TensorFile& shard(const std::string& name) const;

  std::filesystem::path folder_;
  std::set<std::string> files_;
  std::vector<std::shared_ptr<const TensorFile>> shards_;
  std::map<std::string, size_t> shard_of_;  // tensor name to index in shards_
};

/// Writes a folder's tensors: model.safetensors when they fit max_shard_bytes, else shards
/// model-00001-of-0000N.safetensors and model.safetensors.index.json. A tensor larger than
/// max_shard_bytes gets a separate shard. The folder must be new (AtomicFolder). Where tensors have
/// several writers, each rank must call this with the same list and writes the shards of its
/// tensors; rank 0 also writes the index. -> the names of the files that this rank wrote.
std::vector<std::string> write_tensor_folder(const std::filesystem::path& folder,
                                             const std::vector<TensorSource>& tensors,
                                             int64_t max_shard_bytes, int writer = 0);

}  // namespace regroup
