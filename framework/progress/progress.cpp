#include "framework/progress/progress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "framework/text/human.h"

namespace regroup {
namespace {

constexpr double kMemorySeconds = 15;
constexpr double kRedrawSeconds = 0.1;       // on a terminal
constexpr double kFirstPlainSeconds = 1;     // between plain lines; doubles up to
constexpr double kLongestPlainSeconds = 30;  // this

}  // namespace

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void RateMeter::update(double total, double seconds) {
  const double elapsed = seconds - last_seconds_;
  if (started_ && elapsed <= 0) return;
  if (started_) {
    const double keep = std::exp(-elapsed / kMemorySeconds);
    sum_ = sum_ * keep + (total - last_total_);
    weight_ = weight_ * keep + elapsed;
  }
  started_ = true;
  last_total_ = total;
  last_seconds_ = seconds;
}

ProgressLine::ProgressLine(ProgressOptions options, Console& output, std::function<double()> clock)
    : options_(std::move(options)),
      output_(output),
      clock_(std::move(clock)),
      started_at_(clock_()),
      done_(options_.start) {
  rounds_.update(static_cast<double>(options_.start), started_at_);
  amounts_.update(0, started_at_);
}

ProgressLine::~ProgressLine() { finish(); }

void ProgressLine::update(int64_t done, double amount, const std::vector<std::string>& fields,
                          const std::vector<std::string>& after_pace) {
  const double now = clock_();
  rounds_.update(static_cast<double>(done), now);
  amounts_.update(amount, now);
  done_ = done;
  fields_ = fields;
  after_pace_ = after_pace;
  drawn_is_current_ = false;
  if (is_due()) draw();
}

void ProgressLine::update(int64_t done) {
  update(done, static_cast<double>(done - options_.start));
}

bool ProgressLine::is_due() const {
  if (!output_.shows_progress()) return false;
  const double interval = output_.is_terminal() ? kRedrawSeconds : interval_;
  return !drawn_at_ || clock_() - *drawn_at_ >= interval;
}

void ProgressLine::draw() {
  drawn_at_ = clock_();
  drawn_is_current_ = true;
  interval_ = std::clamp(2 * interval_, kFirstPlainSeconds, kLongestPlainSeconds);
  if (output_.is_terminal()) {
    output_.live(text());
  } else {
    output_.note(text());
  }
}

std::string ProgressLine::text() const {
  const bool counts_bytes = options_.unit == "B";
  const auto amount = [&](double value) {
    return counts_bytes ? human_bytes(value) : human_count(value);
  };
  const auto count = [&](int64_t value) {
    return options_.round.empty() ? amount(static_cast<double>(value)) : std::to_string(value);
  };
  std::string line = options_.label + ": ";
  if (!options_.round.empty()) line += options_.round + " ";
  line += count(done_);
  if (options_.total > 0) line += "/" + count(options_.total);
  if (options_.round.empty() && !counts_bytes) line += " " + options_.unit;
  for (const std::string& field : fields_) line += " · " + field;
  if (!options_.unit.empty() && amounts_.per_second() > 0) {
    line +=
        " · " + amount(amounts_.per_second()) + (counts_bytes ? "" : " " + options_.unit) + "/s";
  }
  for (const std::string& field : after_pace_) line += " · " + field;
  if (options_.total > 0 && done_ >= options_.total) {
    return line + " · done in " + human_duration(clock_() - started_at_);
  }
  const double pace = rounds_.per_second();
  if (options_.total == 0 || pace <= 0) return line;
  return line + " · " + human_duration(static_cast<double>(options_.total - done_) / pace) +
         " left";
}

void ProgressLine::finish() {
  if (!drawn_is_current_ && output_.shows_progress()) draw();
  output_.end_live();
}

}  // namespace regroup
