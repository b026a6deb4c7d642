#include "framework/settings/settings.h"

#include <cstdlib>

#include "framework/text/nearest_name.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("sizes take decimal and binary units", "[settings]") {
  const auto [text, bytes] = GENERATE(table<std::string, int64_t>(
      {{"5GB", 5'000'000'000}, {"512MiB", 536'870'912}, {"1.5 KiB", 1536}, {"17", 17}}));
  ByteCount size;
  const Setting option = setting("max-shard-size", &size, "");
  CHECK(!option.assign(text));
  CHECK(size.bytes == bytes);
  const std::string printed = option.print();
  size.bytes = 0;
  CHECK(!option.assign(printed));
  CHECK(size.bytes == bytes);
}

TEST_CASE("a bad size is refused and changes nothing", "[settings]") {
  ByteCount size{.bytes = 3};
  const Setting option = setting("max-shard-size", &size, "");
  const std::string text = GENERATE("", "GB", "5 gigabytes", "-1GB", "0", "1e30TB", "1..5GB");
  CHECK(option.assign(text) == "expected a size such as 5GB or 512MiB");
  CHECK(size.bytes == 3);
}

TEST_CASE("an optional value is unset by empty text", "[settings]") {
  std::optional<double> value = 2.5;
  const Setting option = setting("share", &value, "", between(0, 1));
  CHECK(option.print() == "2.5");
  CHECK(option.assign("2") == "expected a number from 0 to 1");
  CHECK(value == 2.5);
  CHECK(!option.assign(""));
  CHECK(!value);
  CHECK(option.print().empty());
}

TEST_CASE("printed numbers are the shortest that read back exactly", "[settings]") {
  CHECK(print_number(0.1) == "0.1");
  CHECK(print_number(3e-4) == "0.0003");
  CHECK(print_number(1e22) == "1e+22");
  const double value = GENERATE(1.0 / 3, 5e-324, 1.7976931348623157e308, 1e-4 / 3, 1e15 / 3,
                                static_cast<double>(-0.1f));
  CHECK(std::strtod(print_number(value).c_str(), nullptr) == value);
}

TEST_CASE("the nearest name has the fewest edits", "[settings]") {
  const std::vector<std::string> known = {"convert", "generate", "inspect", "optim.lr",
                                          "optim.beta1"};
  CHECK(nearest_name("covnert", known) == "convert");
  CHECK(nearest_name("inspekt", known) == "inspect");
  CHECK(nearest_name("train.beta1", known) == "optim.beta1");
  CHECK(nearest_name("OPTIM.LR", known) == "optim.lr");
  CHECK(nearest_name("optim.learning_rate", known) == "optim.lr");
  CHECK(nearest_name("--lr", {"--run", "--optim.lr"}) == "--optim.lr");
  CHECK(nearest_name("--model", {"--to", "--from"}).empty());
  CHECK(nearest_name("--", known).empty());
  CHECK(nearest_name("x", {}).empty());
}

}  // namespace
}  // namespace regroup
