#include "framework/data/prefetch.h"

#include <ATen/ATen.h>

#include <atomic>
#include <chrono>
#include <optional>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

at::Tensor number(int64_t value) { return at::scalar_tensor(value, at::kLong); }

/// Waits until the counter reaches the value. If it never does, ctest's time limit ends the test.
void wait_for(const std::atomic<int>& counter, int value) {
  while (counter < value) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_CASE("prefetched batches come in order", "[data]") {
  int64_t produced = 0;
  const size_t depth = GENERATE(1, 3);
  Prefetch prefetch([&] { return number(produced++); }, depth);
  for (int64_t i = 0; i < 50; ++i) CHECK(prefetch.next().item<int64_t>() == i);
}

TEST_CASE("a prefetch works ahead by its depth and no further", "[data]") {
  std::atomic<int> produced = 0;
  Prefetch prefetch([&] { return number(produced++); }, 3);
  wait_for(produced, 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(produced == 3);
  prefetch.next();
  wait_for(produced, 4);
}

TEST_CASE("an exception of the producer reaches the consumer after the batches before it",
          "[data]") {
  int64_t produced = 0;
  Prefetch prefetch(
      [&] {
        if (produced == 2) throw Error("d.h5", "cannot be read", "");
        return number(produced++);
      },
      4);
  CHECK(prefetch.next().item<int64_t>() == 0);
  CHECK(prefetch.next().item<int64_t>() == 1);
  CHECK_THROWS_WITH(prefetch.next(), Contains("d.h5: cannot be read"));
  CHECK_THROWS_WITH(prefetch.next(), Contains("d.h5: cannot be read"));
}

TEST_CASE("a prefetch can be destroyed while its queue is full and after it has failed", "[data]") {
  std::atomic<int> produced = 0;
  std::optional<Prefetch> full;
  full.emplace([&] { return number(produced++); }, 2);
  wait_for(produced, 2);
  full.reset();
  CHECK(produced == 2);
  Prefetch failed([]() -> at::Tensor { throw Error("a", "b", ""); }, 2);
}

}  // namespace
}  // namespace regroup
