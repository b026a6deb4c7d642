// One safetensors file: its header, and every tensor that the header describes.
#include <ATen/ATen.h>

#include "framework/files/safetensors.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/support/safetensors_forge.h"

void regroup::fuzz::read_input(std::string_view input) {
  const auto file =
      SafetensorsFile::open(input_folder().write("model.safetensors", std::string(input)));
  for (const auto& [name, entry] : file.entries()) file.tensor(name).clone();
}

std::string regroup::fuzz::good_input() {
  return regroup::testing::forged(
      R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})", std::string(8, 0));
}
