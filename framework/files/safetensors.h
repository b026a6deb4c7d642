// framework/files/safetensors.h: reads (checked, lazily) and writes Hugging Face's tensor files.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "framework/files/mapped_file.h"
#include "framework/files/tensor_file.h"

namespace regroup {

/// The header's entry for one tensor.
struct TensorEntry {
  c10::ScalarType dtype;
  std::vector<int64_t> shape;
  size_t begin;  // byte offsets into the file, begin <= end
  size_t end;
};

/// One safetensors file. Opening maps it and checks the whole header: its length, its JSON, every
/// tensor's dtype and shape, and that the byte ranges fill the file without holes or overlaps.
class SafetensorsFile : public TensorFile {
 public:
  /// Throws Error that names the file, the tensor and the numbers.
  static SafetensorsFile open(const std::filesystem::path& file);

  const std::filesystem::path& path() const override { return map_->path(); }
  /// By name.
  const std::map<std::string, TensorEntry>& entries() const { return entries_; }
  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override { return entries_.contains(name); }
  const std::vector<int64_t>& shape(const std::string& name) const override;
  c10::ScalarType dtype(const std::string& name) const override;

  /// A tensor that views the mapped file (no copy; the map lives as long as the tensor, the memory
  /// that it takes until the tensor is gone, so that a model is read tensor by tensor). Writing to
  /// it changes memory only, never the file, and is lost with it. Booleans, and tensors that the
  /// file does not align to their element size, are copies. The name must be one of entries().
  at::Tensor tensor(const std::string& name) const override;

 private:
  std::shared_ptr<MappedFile> map_;
  std::map<std::string, TensorEntry> entries_;
};

/// Writes one safetensors file atomically, with the metadata {"format": "pt"} that Hugging Face
/// expects. Data lie in the given order, wider dtypes first, so that each tensor is aligned.
/// Names must differ.
void write_safetensors(const std::filesystem::path& file, const std::vector<TensorSource>& tensors);

}  // namespace regroup
