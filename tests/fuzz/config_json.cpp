// config.json of a model folder, read by the family that it names.
#include "models/model_folder.h"

#include "tests/fuzz/fuzz_target.h"
#include "tests/support/tiny_models.h"

namespace regroup::fuzz {

void read_input(std::string_view input) {
  input_folder().write("config.json", std::string(input));
  ModelFolder::open(input_folder().path());
}

/// Beside its weights, which stay in the folder.
std::string good_input() {
  testing::write_tiny_model(input_folder().path(), testing::tiny_decoder(testing::tiny_config()));
  return testing::contents_of(input_folder() / "config.json");
}

}  // namespace regroup::fuzz
