#include "framework/settings/config.h"

#include <fstream>

#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

using testing::TempFolder;

enum class Schedule { kCosine, kLinear };

struct TinyConfig {
  TinyConfig() {
    schema.add("model.n_head", &n_head, "query heads", at_least(1));
    schema.add("model.n_kv_head", &n_kv_head, "K/V heads", at_least(1));
    schema.add("data.train", &train, "token data");
    schema.add("optim.lr", &lr, "peak learning rate", above(0));
    schema.add("optim.schedule", &schedule, "its course",
               EnumNames<Schedule>{{"cosine", Schedule::kCosine}, {"linear", Schedule::kLinear}});
    schema.add("train.steps", &steps, "steps", at_least(1));
    schema.add("train.seed", &seed, "seed");
    schema.add("model.tie_embeddings", &tie_embeddings, "one matrix for input and output");
  }

  int64_t n_head = 8;
  std::vector<int64_t> n_kv_head = {8};
  std::filesystem::path train;
  double lr = 3e-4;
  Schedule schedule = Schedule::kCosine;
  std::optional<int64_t> steps;
  int64_t seed = 1;
  bool tie_embeddings = false;
  ConfigSchema schema;
};

using Overrides = std::vector<std::pair<std::string, std::string>>;

void override_keys(ConfigSchema& schema, const Overrides& overrides) {
  for (const auto& [name, value] : overrides) schema.override_key(name, value);
}

std::string complaint_about(ConfigSchema& schema) {
  try {
    schema.finish();
  } catch (const Error& error) {
    CHECK(error.exit_code() == ExitCode::kBadRequest);
    return error.what();
  }
  return "";
}

TEST_CASE("a config file sets the keys that it names and keeps the defaults of other keys",
          "[config]") {
  const TempFolder folder;
  TinyConfig config;
  config.schema.parse_file(folder.write("a.ini",
                                        "# a comment\n"
                                        "[model]\r\n"
                                        "n_kv_head = 1, 2,4  # one a layer\n"
                                        "  [optim]\n"
                                        "lr=2.5e-3\n"
                                        "schedule = linear\n"));
  config.schema.finish();
  CHECK(config.n_kv_head == std::vector<int64_t>{1, 2, 4});
  CHECK(config.lr == 2.5e-3);
  CHECK(config.schedule == Schedule::kLinear);
  CHECK(config.n_head == 8);
  CHECK(!config.steps);
}

TEST_CASE("overrides win over the config file and later ones over earlier ones", "[config]") {
  const TempFolder folder;
  TinyConfig config;
  config.schema.parse_file(
      folder.write("a.ini", "[optim]\nlr = 1\n[train]\nsteps = 5\nseed = 7\n"));
  override_keys(config.schema, {{"optim.lr", "2"}, {"train.steps", "6"}, {"optim.lr", "3"}});
  config.schema.finish();
  CHECK(config.lr == 3);
  CHECK(config.steps == 6);
  CHECK(config.seed == 7);
}

TEST_CASE("all mistakes of a file and of overrides are reported at once", "[config]") {
  const TempFolder folder;
  TinyConfig config;
  const auto file = folder.write("bad.ini",
                                 "[optim]\n"
                                 "lr = fast\n"
                                 "lrr = 1\n"
                                 "just words\n");
  config.schema.parse_file(file);
  override_keys(config.schema, {{"train.steps", "0"}, {"optim.schedule", "cosin"}});
  CHECK_THAT(complaint_about(config.schema),
             Contains("5 problems") &&
                 Contains("bad.ini:2: optim.lr = fast: expected a number > 0") &&
                 Contains("bad.ini:3: unknown key optim.lrr (did you mean optim.lr?)") &&
                 Contains("bad.ini:4: expected `key = value`") &&
                 Contains("--train.steps=0: expected a whole number >= 1") &&
                 Contains("--optim.schedule=cosin: expected one of cosine, linear"));
}

TEST_CASE("a repeated key in a file is refused with both places", "[config]") {
  const TempFolder folder;
  TinyConfig config;
  const auto file =
      folder.write("a.ini", "[optim]\nlr = 1\n\n[train]\nseed = 2\n[optim]\nlr = 3\n");
  config.schema.parse_file(file);
  CHECK_THAT(complaint_about(config.schema),
             Contains("a.ini:7: optim.lr is given twice") && Contains("a.ini:2"));
}

TEST_CASE("a key in the wrong section names the right one", "[config]") {
  TinyConfig config;
  config.schema.override_key("train.lr", "1");
  CHECK_THAT(complaint_about(config.schema), Contains("(did you mean optim.lr?)"));
}

TEST_CASE("numbers must parse whole and be finite and lie within limits", "[config]") {
  const auto [name, value] =
      GENERATE(table<std::string, std::string>({{"optim.lr", "1x"},
                                                {"optim.lr", "nan"},
                                                {"optim.lr", "inf"},
                                                {"optim.lr", "1e999"},
                                                {"optim.lr", ""},
                                                {"optim.lr", "-1"},
                                                {"optim.lr", "0"},
                                                {"train.seed", "1.5"},
                                                {"train.seed", "99999999999999999999"},
                                                {"train.seed", "0x10"},
                                                {"model.n_kv_head", "1,,2"},
                                                {"model.n_kv_head", "4,"},
                                                {"model.n_kv_head", "0,4"},
                                                {"model.tie_embeddings", "maybe"}}));
  TinyConfig config;
  config.schema.override_key(name, value);
  CHECK_THAT(complaint_about(config.schema), Contains("--" + name + "=" + value + ": expected"));
}

TEST_CASE("a missing or unreadable config file is named", "[config]") {
  const TempFolder folder;
  TinyConfig config;
  CHECK_THROWS_WITH(config.schema.parse_file(folder / "none.ini"),
                    Contains("none.ini") && Contains("no such config file"));
  CHECK_THROWS_WITH(config.schema.parse_file(folder.path()), Contains("is a folder"));
  const auto binary = folder.write("binary.ini", std::string("a\0b", 3));
  CHECK_THROWS_WITH(config.schema.parse_file(binary), Contains("is not a config file"));
}

TEST_CASE("rules see the final values and name the key that the user set", "[config]") {
  TinyConfig config;
  config.schema.add_rule({"model.n_kv_head", "model.n_head"}, [&]() -> std::string {
    if (config.n_head % config.n_kv_head[0] == 0) return "";
    return "n_kv_head does not divide n_head";
  });
  SECTION("broken") {
    config.schema.override_key("model.n_head", "9");
    CHECK_THAT(complaint_about(config.schema),
               Contains("--model.n_head: n_kv_head does not divide n_head"));
  }
  SECTION("not asked about values that were refused") {
    override_keys(config.schema, {{"model.n_head", "9"}, {"model.n_kv_head", "x"}});
    CHECK_THAT(complaint_about(config.schema), !Contains("does not divide"));
  }
  SECTION("kept") {
    config.schema.override_key("model.n_head", "16");
    CHECK_NOTHROW(config.schema.finish());
  }
}

TEST_CASE("a config as INI text reads back to the same values and text", "[config]") {
  const TempFolder folder;
  TinyConfig written;
  override_keys(written.schema, {{"optim.lr", "0.1"},
                                 {"model.n_kv_head", "4,2,1"},
                                 {"train.seed", "-3"},
                                 {"data.train", "some/./tokens.h5"},
                                 {"optim.schedule", "linear"},
                                 {"model.tie_embeddings", "yes"}});
  written.schema.finish();
  written.lr = 1.0 / 3;  // needs all 17 digits
  TinyConfig read;
  read.schema.parse_file(folder.write("config.ini", written.schema.to_ini()));
  read.schema.finish();
  CHECK(read.lr == written.lr);
  CHECK(read.n_kv_head == std::vector<int64_t>{4, 2, 1});
  CHECK(read.seed == -3);
  CHECK(read.schedule == Schedule::kLinear);
  CHECK(read.tie_embeddings);
  CHECK(!read.steps);
  CHECK(read.train == std::filesystem::current_path() / "some/tokens.h5");
  CHECK(read.schema.to_ini() == written.schema.to_ini());
}

TEST_CASE("an override that an INI file cannot hold is refused", "[config]") {
  TinyConfig config;
  config.schema.override_key("data.train", "run#1/tokens.h5");
  CHECK_THAT(complaint_about(config.schema), Contains("cannot hold '#'"));
}

TEST_CASE("help lists every key below its section with its default", "[config]") {
  const TinyConfig config;
  const std::string text = config.schema.describe();
  CHECK_THAT(text, Contains("[optim]\n    lr = 0.0003") && Contains("(cosine|linear)"));
  for (const Setting& key : config.schema.settings()) CHECK_THAT(text, Contains(key.help));
}

}  // namespace
}  // namespace regroup
