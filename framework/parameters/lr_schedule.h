// framework/parameters/lr_schedule.h: the learning rate as a pure function of the step.
#pragma once

#include <cstdint>

namespace regroup {

enum class ScheduleKind { kCosine, kLinear, kConstant, kWsd };

struct LrSchedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double lr = 3e-4;      // the peak
  double min_lr = 3e-5;  // where cosine, linear and wsd end
  int64_t warmup_steps = 0;
  int64_t steps = 0;  // of the whole run

  /// Share of the steps after warm-up over which wsd decays at the end (Hu et al. 2024, MiniCPM:
  /// about a tenth).
  static constexpr double kWsdDecayShare = 0.1;

  /// step counts from 1. Warm-up rises linearly and reaches lr at step warmup_steps; then cosine
  /// (Loshchilov and Hutter 2017, eq. 5) or linear to min_lr at the last step, constant, or
  /// constant with a linear decay at the end.
  double at(int64_t step) const;
};

}  // namespace regroup
