#include "framework/parameters/lr_schedule.h"

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

LrSchedule schedule(ScheduleKind kind) {
  return {.kind = kind, .lr = 1.0, .min_lr = 0.2, .warmup_steps = 10, .steps = 110};
}

TEST_CASE("every schedule warms up linearly to the peak", "[schedule]") {
  const auto kind = GENERATE(ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kConstant,
                             ScheduleKind::kWsd);
  CHECK(schedule(kind).at(1) == Approx(0.1));
  CHECK(schedule(kind).at(5) == Approx(0.5));
  CHECK(schedule(kind).at(10) == Approx(1.0));
}

TEST_CASE("cosine reaches the minimum in half a wave", "[schedule]") {
  const auto cosine = schedule(ScheduleKind::kCosine);
  CHECK(cosine.at(35) == Approx(0.2 + 0.8 * (1 + std::sqrt(0.5)) / 2));
  CHECK(cosine.at(60) == Approx(0.6));
  CHECK(cosine.at(110) == Approx(0.2));
}

TEST_CASE("linear falls by the same amount each step", "[schedule]") {
  const auto linear = schedule(ScheduleKind::kLinear);
  CHECK(linear.at(11) == Approx(0.992));
  CHECK(linear.at(60) == Approx(0.6));
  CHECK(linear.at(110) == Approx(0.2));
}

TEST_CASE("constant stays at the peak", "[schedule]") {
  CHECK(schedule(ScheduleKind::kConstant).at(11) == Approx(1.0));
  CHECK(schedule(ScheduleKind::kConstant).at(110) == Approx(1.0));
}

TEST_CASE("wsd stays at the peak and decays over the last tenth", "[schedule]") {
  const auto wsd = schedule(ScheduleKind::kWsd);
  CHECK(wsd.at(60) == Approx(1.0));
  CHECK(wsd.at(100) == Approx(1.0));
  CHECK(wsd.at(105) == Approx(0.6));
  CHECK(wsd.at(110) == Approx(0.2));
}

TEST_CASE("steps past the end of the run stay at the minimum", "[schedule]") {
  const auto kind = GENERATE(ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kWsd);
  CHECK(schedule(kind).at(200) == Approx(0.2));
}

TEST_CASE("a schedule may have no warm-up, or a single step", "[schedule]") {
  LrSchedule short_run = schedule(ScheduleKind::kCosine);
  short_run.warmup_steps = 0;
  short_run.steps = 1;
  CHECK(short_run.at(1) == Approx(0.2));
  short_run.warmup_steps = 1;
  CHECK(short_run.at(1) == Approx(1.0));
}

}  // namespace
}  // namespace regroup
