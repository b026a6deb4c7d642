// model.safetensors.index.json beside two shards of three tensors: a and b, c.
#include <ATen/ATen.h>
#include "framework/files/safetensors.h"

#include "framework/files/tensor_folder.h"
#include "tests/fuzz/fuzz_target.h"

namespace regroup::fuzz {
namespace {

bool write_shards() {
  const auto tensors = at::ones({2}, at::kFloat);
  write_safetensors(input_folder() / "model-00001-of-00002.safetensors",
                    {tensor_source("a", tensors), tensor_source("b", tensors)});
  write_safetensors(input_folder() / "model-00002-of-00002.safetensors",
                    {tensor_source("c", tensors)});
  return true;
}

}  // namespace

void read_input(std::string_view input) {
  [[maybe_unused]] static const bool has_shards = write_shards();
  input_folder().write("model.safetensors.index.json", std::string(input));
  const auto folder = TensorFolder::open(input_folder().path());
  for (const auto& name : folder.names()) folder.tensor(name).clone();
}

std::string good_input() {
  return R"({"weight_map": {"a": "model-00001-of-00002.safetensors",
                            "b": "model-00001-of-00002.safetensors",
                            "c": "model-00002-of-00002.safetensors"}})";
}

}  // namespace regroup::fuzz
