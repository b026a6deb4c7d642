// A training run's config file: every key, and all rules about them.
#include "tests/fuzz/fuzz_target.h"
#include "trainers/train_config.h"

void regroup::fuzz::read_input(std::string_view input) {
  TrainConfig config;
  ConfigSchema schema;
  declare(schema, config);
  schema.parse_file(input_folder().write("run.ini", std::string(input)));
  schema.finish();
  decoder_config(config, 100);
  const auto printed = schema.to_ini();
  schema.describe();
  TrainConfig again;
  ConfigSchema reread;
  declare(reread, again);
  reread.parse_file(input_folder().write("config.ini", printed));
  reread.finish();
  TORCH_CHECK(reread.to_ini() == printed, "the saved config reads back as another: ", printed);
}

std::string regroup::fuzz::good_input() {
  return "[data]\ntrain = tokens.h5\n[train]\nsteps = 2\n";
}
