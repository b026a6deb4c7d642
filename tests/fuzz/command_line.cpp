// The words of a command line, one a line, for a verb with an option of every kind and a config.
#include <sstream>

#include "tests/fuzz/fuzz_target.h"
#include "tools/command_line/command_line.h"
#include "trainers/train_config.h"

void regroup::fuzz::read_input(std::string_view input) {
  std::vector<std::string> words;
  std::istringstream lines{std::string(input)};
  for (std::string line; std::getline(lines, line);) {
    if (line != "--help") words.push_back(line);  // prints to stdout and is done
  }

  TrainConfig config;
  ConfigSchema schema;
  declare(schema, config);
  int64_t number = 0;
  double share = 0;
  bool is_on = false;
  ByteCount size;
  std::vector<int64_t> numbers;
  std::optional<std::string> text;
  std::optional<std::filesystem::path> json;
  std::vector<std::filesystem::path> models;
  std::string method, path;

  CommandLine line({"verb", "[options]", "Does it.", "regroup verb"});
  line.add("number", &number, "a number", at_least(1)).required();
  line.add("share", &share, "a share", between(0, 1));
  line.add("is-on", &is_on, "a switch");
  line.add("size", &size, "bytes");
  line.add("numbers", &numbers, "numbers", at_least(0));
  line.add("text", &text, "a text").without_value_means("empty");
  line.add("model", &models, "a model");
  line.add("method", &method, "a method", std::vector<std::string>{"mean", "first"});
  line.add_positional("path", &path, "a path");
  line.add_config(&schema);
  line.add_json(&json);
  line.add_quiet();
  line.parse(words);
}

std::string regroup::fuzz::good_input() {
  return "--number=1\n--method\nmean\n--train.steps=5\npath";
}
