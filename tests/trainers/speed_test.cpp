#include "trainers/speed.h"

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("median and spread of rounds", "[speed]") {
  CHECK(median({3, 1, 2}) == 2);
  CHECK(spread({100, 100, 100}) == 0);
  CHECK(spread({110, 90, 100}) == Approx(0.2));
  CHECK(spread({5}) == 0);
}

TEST_CASE("a quiet machine gets no remark, a busy one does", "[speed]") {
  CHECK_FALSE(busy_remark(0));
  const auto remark = busy_remark(/*busy_elsewhere=*/1.5, /*n_processes=*/1'000);
  REQUIRE(remark);
  CHECK(remark->find("the machine was busy: other processes computed on 1.5 of ") == 0);
}

}  // namespace
}  // namespace regroup
