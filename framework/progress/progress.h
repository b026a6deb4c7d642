// framework/progress/progress.h: how far a loop is, its pace and its remaining time, for people who
// wait for it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "framework/progress/console.h"

namespace regroup {

/// Seconds on a clock that never goes back.
double steady_seconds();

/// Progress per second, recent seconds weighing most (exponential, time constant 15 s).
class RateMeter {
 public:
  /// `total`: the amount done since any fixed moment, at `seconds`; both never decrease.
  void update(double total, double seconds);
  /// 0 until two updates at different times were seen.
  double per_second() const { return weight_ > 0 ? sum_ / weight_ : 0; }

 private:
  bool started_ = false;
  double last_total_ = 0;
  double last_seconds_ = 0;
  double sum_ = 0;     // discounted amount
  double weight_ = 0;  // discounted seconds
};

struct ProgressOptions {
  std::string label;       // "pretrain"
  int64_t total = 0;       // rounds of the loop; 0 where unknown
  std::string round = {};  // what a round is: "step"; empty where `unit` says it all
  std::string unit = {};   // what the pace counts: "tokens", "B"; empty shows no pace
  int64_t start = 0;       // rounds that an earlier process did
};

/// One live line on a terminal:
///   pretrain: step 120/4000 · loss 5.1234 · 12.3 k tokens/s · MFU 41 % · 5 min 20 s left
/// Elsewhere the same as a plain line at the first update, then after 1, 2, 4, ... 30 s, and at the
/// end.
class ProgressLine {
 public:
  explicit ProgressLine(ProgressOptions options, Console& output = console(),
                        std::function<double()> clock = steady_seconds);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// done: rounds finished, `start` included; amount: `unit`s finished since construction; fields
  /// stand before the pace, after_pace behind it ("MFU 41 %").
  void update(int64_t done, double amount, const std::vector<std::string>& fields = {},
              const std::vector<std::string>& after_pace = {});
  /// The same for loops whose rounds are what the pace counts.
  void update(int64_t done);
  /// True when update() would draw something now: lets a loop read a loss off the device only then.
  bool is_due() const;
  /// Draws the last state and ends the line; the destructor does it too.
  void finish();

 private:
  std::string text() const;
  void draw();

  const ProgressOptions options_;
  Console& output_;
  const std::function<double()> clock_;
  const double started_at_;
  RateMeter rounds_;
  RateMeter amounts_;
  int64_t done_ = 0;
  std::vector<std::string> fields_;
  std::vector<std::string> after_pace_;
  std::optional<double> drawn_at_;
  double interval_ = 0;
  bool drawn_is_current_ = true;
};

}  // namespace regroup
