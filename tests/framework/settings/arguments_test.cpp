#include "framework/settings/arguments.h"

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

/// A command line with three options: one with a value, one with an optional value, one flag.
struct Parsed {
  explicit Parsed(const std::vector<std::string>& words) {
    double lr = 0;
    std::string resume;
    bool quiet = false;
    const Setting with_value = setting("optim.lr", &lr, "");
    const Setting with_implied = setting("resume", &resume, "").without_value_means("last");
    const Setting without_value = flag("quiet", &quiet, "");
    arguments = parse_arguments(words, {&with_value, &with_implied, &without_value}, &complaints);
    for (const auto& [name, value] : arguments.options) options.push_back(name + "=" + value);
  }

  std::string complaint() const {
    try {
      complaints.throw_if_any("command line", "");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  Complaints complaints;
  Arguments arguments;
  std::vector<std::string> options;
};

TEST_CASE("options take their values after an equals sign or as the next word", "[arguments]") {
  const Parsed parsed({"model", "--optim.lr=1", "--quiet", "--optim.lr", "2", "--resume=7"});
  CHECK(parsed.options ==
        std::vector<std::string>{"optim.lr=1", "quiet=true", "optim.lr=2", "resume=7"});
  CHECK(parsed.arguments.positional == std::vector<std::string>{"model"});
  CHECK(parsed.complaints.empty());
}

TEST_CASE("an option without its optional value has the implied one", "[arguments]") {
  CHECK(Parsed({"--resume", "--quiet"}).options ==
        std::vector<std::string>{"resume=last", "quiet=true"});
}

TEST_CASE("an empty value is a value", "[arguments]") {
  CHECK(Parsed({"--optim.lr="}).options == std::vector<std::string>{"optim.lr="});
}

TEST_CASE("after two dashes all words are positional", "[arguments]") {
  const Parsed parsed({"--quiet", "--", "--optim.lr", "x"});
  CHECK(parsed.options == std::vector<std::string>{"quiet=true"});
  CHECK(parsed.arguments.positional == std::vector<std::string>{"--optim.lr", "x"});
}

TEST_CASE("an option of the wrong section names the right one", "[arguments]") {
  CHECK_THAT(Parsed({"--train.lr=1"}).complaint(), Contains("(did you mean --optim.lr?)"));
}

TEST_CASE("names of options cannot be abbreviated", "[arguments]") {
  CHECK_THAT(Parsed({"--optim.l=1"}).complaint(),
             Contains("--optim.l: unknown option") && Contains("--optim.lr"));
}

TEST_CASE("all mistakes of a command line are reported at once", "[arguments]") {
  CHECK_THAT(Parsed({"--quiet=1", "--nonsense", "--optim.lr"}).complaint(),
             Contains("3 problems") && Contains("--quiet: takes no value") &&
                 Contains("--nonsense: unknown option") &&
                 Contains("--optim.lr: needs a value (X)"));
}

}  // namespace
}  // namespace regroup
