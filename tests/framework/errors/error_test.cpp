#include "framework/errors/error.h"

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("an error is one line that says where and what and what to do", "[error]") {
  const Error error("llama config.json", "num_key_value_heads (4) does not divide 9", "Choose 3.");
  CHECK(std::string(error.what()) ==
        "llama config.json: num_key_value_heads (4) does not divide 9. Choose 3.");
  CHECK(error.exit_code() == ExitCode::kFailed);
}

TEST_CASE("a request error carries exit code 2", "[error]") {
  CHECK(request_error("--batch", "0 is not positive", "Give 1 or more.").exit_code() ==
        ExitCode::kBadRequest);
}

TEST_CASE("complaints throw nothing when there are none", "[error]") {
  CHECK_NOTHROW(Complaints().throw_if_any("config.ini", "Mend it."));
}

TEST_CASE("complaints show the first five and count the rest", "[error]") {
  Complaints complaints;
  for (const char* key : {"lr", "beta1", "beta2", "eps", "seed", "steps", "dtype"}) {
    complaints.add(std::string(key) + " is unknown");
  }
  CHECK_THROWS_WITH(complaints.throw_if_any("config.ini", "Mend them."),
                    Contains("7 problems") && Contains("lr is unknown") &&
                        Contains("seed is unknown") && !Contains("steps") &&
                        Contains("and 2 more") && Contains("Mend them."));
}

TEST_CASE("an error stays short, however long its parts are", "[error]") {
  Complaints complaints;
  for (int i = 0; i < 100; ++i) complaints.add(std::string(10000, 'x'));
  try {
    complaints.throw_if_any(std::string(10000, 'y'), "Mend them.");
    FAIL("nothing was thrown");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).size() < 3000);
  }
}

}  // namespace
}  // namespace regroup
