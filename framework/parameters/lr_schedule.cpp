#include "framework/parameters/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace regroup {

double LrSchedule::at(int64_t step) const {
  if (step <= warmup_steps)
    return lr * static_cast<double>(step) / static_cast<double>(warmup_steps);
  const int64_t after_warmup = std::max<int64_t>(1, steps - warmup_steps);
  const double progress =
      std::min(1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(after_warmup));
  switch (kind) {
    case ScheduleKind::kCosine:
      return min_lr + (lr - min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
    case ScheduleKind::kLinear:
      return lr + (min_lr - lr) * progress;
    case ScheduleKind::kConstant:
      return lr;
    case ScheduleKind::kWsd:
      break;
  }
  const double decayed = std::max(0.0, (progress - (1 - kWsdDecayShare)) / kWsdDecayShare);
  return lr + (min_lr - lr) * decayed;
}

}  // namespace regroup
