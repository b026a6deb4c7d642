#include "tests/support/catch_torch.h"

#include <cmath>

namespace {

const auto kExpected = torch::arange(6, torch::kFloat32).reshape({2, 3});

TEST_CASE("AllClose accepts differences up to atol and no further", "[support]") {
  auto actual = kExpected.clone();
  actual[1][2] += 0.25;
  CHECK_THAT(actual, AllClose(kExpected, /*atol=*/0.25));
  CHECK_THAT(actual, !AllClose(kExpected, /*atol=*/0.24));
  CHECK_THAT(actual, AllClose(kExpected, /*atol=*/0, /*rtol=*/0.05));
  CHECK_THAT(actual, !AllClose(kExpected, /*atol=*/0, /*rtol=*/0.04));
}

TEST_CASE("AllClose reports the largest difference and where it is", "[support]") {
  auto actual = kExpected.clone();
  actual[0][1] += 0.25;
  actual[1][0] -= 0.5;
  const AllClose matcher(kExpected, /*atol=*/0.1);
  REQUIRE_FALSE(matcher.match(actual));
  CHECK_THAT(matcher.describe(), Contains("largest difference -0.5 at 1 0: 2.5 for 3"));
}

TEST_CASE("AllClose refuses another shape and another dtype and NaN", "[support]") {
  CHECK_THAT(kExpected.reshape({3, 2}), !AllClose(kExpected, /*atol=*/1e9));
  CHECK_THAT(kExpected.to(torch::kDouble), !AllClose(kExpected, /*atol=*/1e9));
  auto actual = kExpected.clone();
  actual[0][0] = NAN;
  CHECK_THAT(actual, !AllClose(kExpected, /*atol=*/1e9));
  CHECK_THAT(actual, !AllClose(actual, /*atol=*/1e9));
}

TEST_CASE("a tensor prints as one line with dtype and shape and first values", "[support]") {
  CHECK(Catch::Detail::stringify(kExpected + 0.5) == "Float [2, 3] {0.5, 1.5, 2.5, 3.5, 4.5, 5.5}");
  CHECK(Catch::Detail::stringify(torch::zeros({70}, torch::kInt64)) ==
        "Long [70] {0, 0, 0, 0, 0, 0, ...}");
}

}  // namespace
