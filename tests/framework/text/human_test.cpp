#include "framework/text/human.h"

#include <cmath>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("counts are printed with three significant digits", "[human]") {
  CHECK(human_count(0) == "0");
  CHECK(human_count(950) == "950");
  CHECK(human_count(12.345) == "12.3");
  CHECK(human_count(12345) == "12.3 k");
  CHECK(human_count(4'560'000) == "4.56 M");
  CHECK(human_count(123'456'789) == "123 M");
  CHECK(human_count(7e9) == "7.00 G");
  CHECK(human_count(999'999) == "1.00 M");
}

TEST_CASE("bytes are printed in powers of 1024", "[human]") {
  CHECK(human_bytes(512) == "512 B");
  CHECK(human_bytes(1536) == "1.50 KiB");
  CHECK(human_bytes(12.3 * 1024 * 1024) == "12.3 MiB");
}

TEST_CASE("durations are printed in their two largest units", "[human]") {
  CHECK(human_duration(0.42) == "0.4 s");
  CHECK(human_duration(9.99) == "10 s");
  CHECK(human_duration(59.7) == "1 min 00 s");
  CHECK(human_duration(185) == "3 min 05 s");
  CHECK(human_duration(7800) == "2 h 10 min");
  CHECK(human_duration(3 * 86400 + 4 * 3600) == "3 d 04 h");
  CHECK(human_duration(std::nan("")) == "?");
  CHECK(human_duration(-1) == "?");
}

TEST_CASE("control characters are printed escaped, and other text as it is", "[human]") {
  CHECK(printable("a\tb\n\x1b[31m\x07") == "a\tb\n\\x1b[31m\\x07");
  CHECK(printable("\xc2\x9b"
                  "1m\x7f\r") == "\\x9b1m\\x7f\\x0d");
  CHECK(printable("größe 語 \xc2") == "größe 語 \xc2");
}

}  // namespace
}  // namespace regroup
