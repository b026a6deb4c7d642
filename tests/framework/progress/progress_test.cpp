#include "framework/progress/progress.h"

#include <unistd.h>

#include <array>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

/// A console whose output can be read, and a clock that the test sets.
struct Watched {
  explicit Watched(bool is_terminal = false) {
    if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
    output.emplace(ends[1], is_terminal);
  }
  ~Watched() {
    ::close(ends[0]);
    if (ends[1] >= 0) ::close(ends[1]);
  }

  std::function<double()> clock() {
    return [this] { return now; };
  }

  /// Returns all output, and ends it.
  std::string text() {
    ::close(std::exchange(ends[1], -1));
    std::string read;
    std::array<char, 4096> buffer{};
    for (ssize_t n = 0; (n = ::read(ends[0], buffer.data(), buffer.size())) > 0;) {
      read.append(buffer.data(), static_cast<size_t>(n));
    }
    return read;
  }

  std::array<int, 2> ends{};
  std::optional<Console> output;
  double now = 100;
};

int64_t count(const std::string& text, const std::string& part) {
  int64_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

const ProgressOptions kPretrain = {
    .label = "pretrain", .total = 1000, .round = "step", .unit = "tokens"};

TEST_CASE("a progress line shows step, fields, pace and the remaining time", "[progress]") {
  Watched watched;
  {
    ProgressLine line(kPretrain, *watched.output, watched.clock());
    watched.now += 2;
    line.update(100, 24600, {"loss 5.1234"}, {"MFU 41 %"});
  }
  CHECK(watched.text() ==
        "pretrain: step 100/1000 · loss 5.1234 · 12.3 k tokens/s · MFU 41 % · 18 s left\n");
}

TEST_CASE("plain progress lines become rarer, down to one in 30 seconds", "[progress]") {
  Watched watched;
  {
    ProgressLine line(kPretrain, *watched.output, watched.clock());
    for (int64_t step = 1; step <= 1000; ++step) {
      watched.now += 0.25;
      line.update(step, static_cast<double>(step));
    }
  }
  const std::string text = watched.text();
  // at 0, 1, 3, 7, 15, 31, 61, 91, ... 241 seconds after the first, and at the end
  CHECK(count(text, "\n") == 14);
  CHECK_THAT(text, Contains("step 1/1000") && Contains("step 5/1000") && Contains("step 13/1000"));
  CHECK_THAT(text, Contains("step 1000/1000") && Contains("done in 4 min 10 s"));
  CHECK(count(text, "\r") == 0);
}

TEST_CASE("a terminal gets one line that is redrawn in place", "[progress]") {
  Watched watched(/*is_terminal=*/true);
  {
    ProgressLine line(kPretrain, *watched.output, watched.clock());
    for (int64_t step = 1; step <= 10; ++step) {
      watched.now += 0.2;
      line.update(step, 1);
    }
  }
  const std::string text = watched.text();
  CHECK(count(text, "\r\x1b[K") == 10);
  CHECK(count(text, "\n") == 1);
  CHECK(text.ends_with("\n"));
}

TEST_CASE("a note is written above the live line, which stays whole", "[progress]") {
  Watched watched(/*is_terminal=*/true);
  watched.output->live("step 1");
  watched.output->note("saved");
  watched.output->end_live();
  CHECK(watched.text() == "\r\x1b[Kstep 1\r\x1b[Ksaved\nstep 1\n");
}

TEST_CASE("a live line is cut to the terminal's width by characters", "[progress]") {
  Watched watched(/*is_terminal=*/true);  // a pipe has no width: 80 columns
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += "·";
  watched.output->live(wide);
  CHECK(count(watched.text(), "·") == 79);
}

TEST_CASE("quiet silences progress and notes but not warnings", "[progress]") {
  Watched watched;
  watched.output->set_verbosity(Verbosity::kWarnings);
  {
    ProgressLine line(kPretrain, *watched.output, watched.clock());
    watched.now += 2;
    CHECK(!line.is_due());
    line.update(100, 24600);
    watched.output->note("saved");
    watched.output->warn("warm-up shortened");
  }
  CHECK(watched.text() == "warning: warm-up shortened\n");
}

TEST_CASE("a resumed loop does not count earlier steps into its pace", "[progress]") {
  Watched watched;
  {
    ProgressLine line(
        {.label = "pretrain", .total = 1000, .round = "step", .unit = "", .start = 900},
        *watched.output, watched.clock());
    watched.now += 10;
    line.update(950, 0);
  }
  CHECK(watched.text() == "pretrain: step 950/1000 · 10 s left\n");
}

TEST_CASE("a loop over bytes counts, and shows its pace, in bytes", "[progress]") {
  Watched watched;
  {
    ProgressLine line({.label = "convert", .total = 3 << 20, .round = "", .unit = "B"},
                      *watched.output, watched.clock());
    watched.now += 1;
    line.update(1 << 20);
  }
  CHECK(watched.text() == "convert: 1.00 MiB/3.00 MiB · 1.00 MiB/s · 2.0 s left\n");
}

TEST_CASE("the pace follows recent seconds", "[progress]") {
  RateMeter meter;
  CHECK(meter.per_second() == 0);
  meter.update(0, 0);
  for (int second = 1; second <= 100; ++second) meter.update(10 * second, second);
  CHECK(meter.per_second() == Approx(10));
  for (int second = 1; second <= 100; ++second) meter.update(1000 + 50 * second, 100 + second);
  CHECK(meter.per_second() == Approx(50).epsilon(0.01));
}

}  // namespace
}  // namespace regroup
