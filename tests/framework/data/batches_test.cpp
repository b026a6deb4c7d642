#include "framework/data/batches.h"

#include <ATen/ATen.h>

#include <set>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/token_files.h"

namespace regroup {
namespace {

using testing::TempFolder;
using testing::TokenFile;

/// A split whose token i is i, so that windows show where they start.
class CountingSplit {
 public:
  explicit CountingSplit(int64_t n_tokens) {
    TokenFile contents;
    contents.vocab_size = 1000;
    contents.splits["train"] = {at::arange(n_tokens), {0, n_tokens}, n_tokens};
    data_ = TokenData::open(contents.write(folder_ / "d.h5"));
  }
  const TokenSplit& split() const { return data_->split("train"); }

 private:
  TempFolder folder_;
  std::optional<TokenData> data_;
};

std::vector<int64_t> windows(Batches& batches, int64_t begin, int64_t end) {
  std::vector<int64_t> found;
  for (int64_t p = begin; p < end; ++p) found.push_back(batches.window_at(p));
  return found;
}

TEST_CASE("windows overlap by one token so that each token is predicted once", "[data]") {
  const CountingSplit data(23);
  Batches batches(data.split(), /*seq_len=*/4, std::nullopt);
  CHECK(batches.n_windows() == 5);
  const auto batch = batches.gather(0, 5);
  const auto begins = at::arange(0, 20, 4).unsqueeze(1);
  CHECK_THAT(batch, AllClose(begins + at::arange(5)));
}

TEST_CASE("the last window ends with the last token when they fit exactly", "[data]") {
  const CountingSplit data(21);
  Batches batches(data.split(), 4, std::nullopt);
  CHECK(batches.n_windows() == 5);
  CHECK(batches.gather(4, 1)[0][4].item<int64_t>() == 20);
}

TEST_CASE("a split shorter than one window is refused with the numbers", "[data]") {
  const CountingSplit data(8);
  CHECK_NOTHROW(Batches(data.split(), 7, 0));
  CHECK_THROWS_WITH(Batches(data.split(), 8, 0),
                    Contains("/train: has 8 tokens") && Contains("seq_len 8 needs 9"));
}

TEST_CASE("every epoch holds every window once and in another order", "[data]") {
  const CountingSplit data(401);
  Batches batches(data.split(), 4, /*shuffle_seed=*/7);
  const auto first = windows(batches, 0, 100);
  const auto second = windows(batches, 100, 200);
  CHECK(std::set<int64_t>(first.begin(), first.end()).size() == 100);
  CHECK(std::set<int64_t>(second.begin(), second.end()).size() == 100);
  CHECK(first != second);
}

TEST_CASE("the order of windows depends on the seed", "[data]") {
  const CountingSplit data(401);
  Batches one(data.split(), 4, 1);
  Batches two(data.split(), 4, 2);
  CHECK(windows(one, 0, 100) != windows(two, 0, 100));
}

TEST_CASE("a batch depends on its position and not on earlier batches", "[data]") {
  const CountingSplit data(45);
  Batches straight(data.split(), 4, 3);
  Batches resumed(data.split(), 4, 3);
  const auto all = straight.gather(0, 40);  // 11 windows: nearly four epochs
  for (const int64_t position : {30, 5, 21, 8}) {
    CHECK_THAT(resumed.gather(position, 10), AllClose(all.slice(0, position, position + 10)));
  }
}

}  // namespace
}  // namespace regroup
