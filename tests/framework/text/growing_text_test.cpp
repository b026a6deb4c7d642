#include "framework/text/growing_text.h"

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("the stop text that begins first counts", "[growing_text]") {
  CHECK(find_first_stop("one two three", {"three", "two"}) == 4);
  CHECK(find_first_stop("one two", {"three"}) == std::string_view::npos);
  CHECK(find_first_stop("one two", {}) == std::string_view::npos);
}

TEST_CASE("an unfinished character at the end of a text is not settled", "[growing_text]") {
  CHECK(settled_part("caf\uFFFD", {}) == "caf");
  CHECK(settled_part("caf\uFFFD\uFFFD", {}) == "caf");
  CHECK(settled_part("caf\uFFFD!", {}) == "caf\uFFFD!");
  CHECK(settled_part("café", {}) == "café");
  CHECK(settled_part("", {}) == "");
}

TEST_CASE("an end with which a stop text may begin is not settled", "[growing_text]") {
  const std::vector<std::string> stops{"\n\n", "User:"};
  CHECK(settled_part("a line\n", stops) == "a line");
  CHECK(settled_part("a line\nmore", stops) == "a line\nmore");
  CHECK(settled_part("Use", stops) == "");
  CHECK(settled_part("UseUse", stops) == "Use");
  CHECK(settled_part("Used", stops) == "Used");
  CHECK(settled_part("aab", {"abc", "b"}) == "a");
  CHECK(settled_part("Use\uFFFD", stops) == "");
}

}  // namespace
}  // namespace regroup
