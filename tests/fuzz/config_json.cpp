// config.json of a model folder, read by the family that it names.
#include "models/model_folder.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/support/safetensors_forge.h"

void regroup::fuzz::read_input(std::string_view input) {
  static const auto weights = input_folder().write("model.safetensors", testing::forged("{}", ""));
  input_folder().write("config.json", std::string(input));
  ModelFolder::open(input_folder().path());
}
