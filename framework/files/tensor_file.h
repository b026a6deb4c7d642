// framework/files/tensor_file.h: a file of named tensors, whatever its format, and tensors to
// write.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace regroup {

/// Its header was checked when it was opened; tensors are read when asked for. Names that are
/// asked about must be among names().
class TensorFile {
 public:
  virtual ~TensorFile() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  virtual const std::vector<int64_t>& shape(const std::string& name) const = 0;
  virtual c10::ScalarType dtype(const std::string& name) const = 0;
  virtual at::Tensor tensor(const std::string& name) const = 0;
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

}  // namespace regroup
