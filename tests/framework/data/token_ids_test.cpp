#include "framework/data/token_ids.h"

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("token ids are read whole", "[token_ids]") {
  CHECK(parse_token_ids("1 2\n4294967295 ", "tokenizer.json") ==
        std::vector<int64_t>{1, 2, 4294967295});
  CHECK(parse_token_ids("", "tokenizer.json").empty());
}

TEST_CASE("what is not a token id is refused, not passed over", "[token_ids]") {
  const auto text = GENERATE("1 x 3", "-1", "4294967296", "1.5", "1,2", "99999999999999999999");
  CHECK_THROWS_WITH(parse_token_ids(text, "tokenizer.json"),
                    Contains("tokenizer.json") && Contains("token id"));
}

}  // namespace
}  // namespace regroup
