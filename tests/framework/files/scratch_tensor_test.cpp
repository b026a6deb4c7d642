#include "framework/files/scratch_tensor.h"

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

TEST_CASE("a scratch tensor keeps its values, in memory or in a file", "[scratch]") {
  const testing::TempFolder folder;
  const int64_t most_in_memory = GENERATE(0, 1 << 20);
  auto tensor = scratch_tensor({30, 500}, folder.path(), most_in_memory);
  const auto values = torch::arange(15000, torch::kFloat32).view({30, 500});
  tensor.copy_(values);
  CHECK(torch::equal(tensor, values));
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("a scratch tensor that the disk has no room for is refused", "[scratch]") {
  const testing::TempFolder folder;
  CHECK_THROWS_WITH(scratch_tensor({int64_t{1} << 55}, folder.path()),
                    Contains(folder.path().string()) && Contains("no room"));
  CHECK_THROWS_WITH(scratch_tensor({8}, folder.path() / "missing", 0), Contains("no room"));
  CHECK(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace regroup
