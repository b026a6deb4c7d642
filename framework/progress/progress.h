// framework/progress/progress.h: shows how far a loop is, its pace and its remaining time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "framework/progress/console.h"

namespace regroup {

/// Seconds on a monotonic clock.
double steady_seconds();

/// Progress per second, exponentially weighted: recent seconds count most (time constant 15 s).
class RateMeter {
 public:
  /// total: the amount done at `seconds`, since any fixed moment. Neither may decrease.
  void update(double total, double seconds);
  /// 0 until there were two updates at different times.
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
  std::string round = {};  // the name of a round: "step"; empty where `unit` is enough
  std::string unit = {};   // the pace's unit: "tokens", "B"; empty: no pace is shown
  int64_t start = 0;       // rounds done by an earlier process
};

/// One live line on a terminal:
///   pretrain: step 120/4000 · loss 5.1234 · 12.3 k tokens/s · MFU 41 % · 5 min 20 s left
/// Without a terminal, a plain line at the first update, after 1, 2, 4, ... 30 s, and at the end.
class ProgressLine {
 public:
  explicit ProgressLine(ProgressOptions options, Console& output = console(),
                        std::function<double()> clock = steady_seconds);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// done: rounds finished, including `start`. amount: `unit`s finished since construction. fields:
  /// shown before the pace; after_pace: shown after it ("MFU 41 %").
  void update(int64_t done, double amount, const std::vector<std::string>& fields = {},
              const std::vector<std::string>& after_pace = {});
  /// For loops whose pace counts rounds.
  void update(int64_t done);
  /// True if update() would draw now, so that a loop copies a loss from the device only then.
  bool is_due() const;
  /// Draws the last state and ends the line. The destructor calls it.
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
