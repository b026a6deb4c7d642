#include "models/convert/kv_budget.h"

#include <limits>
#include <numeric>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

TEST_CASE("a budget of heads goes where it saves most", "[convert]") {
  const std::vector<std::vector<HeadChoice>> layers{
      {{1, 5}, {2, 3}, {4, 0}}, {{1, 9}, {2, 1}, {4, 0}}, {{1, 2}, {2, 1.5}, {4, 0}}};
  const int64_t budget = GENERATE(range(3, 13));
  double least = std::numeric_limits<double>::infinity();
  for (const auto& a : layers[0]) {
    for (const auto& b : layers[1]) {
      for (const auto& c : layers[2]) {
        if (a.n_kv_head + b.n_kv_head + c.n_kv_head <= budget)
          least = std::min(least, a.error + b.error + c.error);
      }
    }
  }
  const auto chosen = best_allocation(layers, budget);
  REQUIRE(chosen.size() == 3);
  double error = 0;
  for (size_t layer = 0; layer < 3; ++layer) {
    for (const auto& choice : layers[layer]) {
      if (choice.n_kv_head == chosen[layer]) error += choice.error;
    }
  }
  CHECK(std::accumulate(chosen.begin(), chosen.end(), int64_t{0}) <= budget);
  CHECK(error == least);
}

TEST_CASE("a budget below one head a layer has no allocation", "[convert]") {
  CHECK(best_allocation({{{1, 5}, {2, 0}}, {{1, 3}, {2, 0}}}, 1).empty());
}

TEST_CASE("a share of the K/V bytes must leave a head in each layer", "[convert]") {
  const auto config = testing::tiny_config({4, 4});
  CHECK_NOTHROW(check_budget(config, 0.25));
  CHECK_THROWS_WITH(check_budget(config, 0.2),
                    Contains("0.2 of the K/V bytes") && Contains("2 layers") && Contains("0.25."));
}

}  // namespace
}  // namespace regroup
