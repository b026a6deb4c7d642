// framework/files/safetensors.h: reads (checked, lazily) and writes Hugging Face's tensor files.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "framework/files/mapped_file.h"

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
class SafetensorsFile {
 public:
  /// Throws Error that names the file, the tensor and the numbers.
  static SafetensorsFile open(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return map_->path(); }
  /// By name.
  const std::map<std::string, TensorEntry>& entries() const { return entries_; }

  /// A tensor that views the mapped file (no copy; the map lives as long as the tensor). Writing to
  /// it changes memory only, never the file. Booleans, and tensors that the file does not align to
  /// their element size, are copies. The name must be one of entries().
  at::Tensor tensor(const std::string& name) const;

 private:
  std::shared_ptr<MappedFile> map_;
  std::map<std::string, TensorEntry> entries_;
};

/// A tensor to write. It is loaded only when it is written, so a model does not need to fit in
/// memory.
struct TensorSource {
  std::string name;
  c10::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> load;  // returns a tensor of this dtype and shape, on any device
  int writer = 0;                    // the rank that writes it

  size_t bytes() const;
};

/// A source for a tensor that is in memory.
TensorSource tensor_source(std::string name, const at::Tensor& tensor);

/// Writes one safetensors file atomically, with the metadata {"format": "pt"} that Hugging Face
/// expects. Data lie in the given order, wider dtypes first, so that each tensor is aligned.
/// Names must differ.
void write_safetensors(const std::filesystem::path& file, const std::vector<TensorSource>& tensors);

}  // namespace regroup
