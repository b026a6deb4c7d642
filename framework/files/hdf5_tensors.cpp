#include "framework/files/hdf5_tensors.h"

namespace regroup {

Hdf5Tensors Hdf5Tensors::open(const std::filesystem::path& file) {
  Hdf5Tensors opened;
  opened.path_ = file;
  const auto hdf5 = Hdf5File::open(file);
  for (const auto& name : hdf5.members("/"))
    opened.datasets_.emplace(name, hdf5.dataset("/" + name));
  return opened;
}

std::vector<std::string> Hdf5Tensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, dataset] : datasets_) names.push_back(name);
  return names;
}

const std::vector<int64_t>& Hdf5Tensors::shape(const std::string& name) const {
  return datasets_.at(name).shape();
}

c10::ScalarType Hdf5Tensors::dtype(const std::string& name) const {
  return datasets_.at(name).dtype();
}

at::Tensor Hdf5Tensors::tensor(const std::string& name) const { return datasets_.at(name).read(); }

}  // namespace regroup
