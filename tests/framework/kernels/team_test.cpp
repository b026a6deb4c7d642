#include "framework/kernels/cpu/team.h"

#include <ATen/Parallel.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

using kernels::cpu::brief_parallel_for;

/// Threads of this test, whatever the machine has.
class Threads {
 public:
  explicit Threads(int n) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

/// How often each of n numbers was visited, and the number of parts.
struct Visits {
  std::vector<int> times;
  int parts = 0;
};

Visits visits_of(int64_t n, int64_t grain) {
  Visits visits{std::vector<int>(static_cast<size_t>(n))};
  std::atomic<int> parts{0};
  brief_parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    ++parts;
    for (int64_t i = begin; i < end; ++i) ++visits.times[static_cast<size_t>(i)];
  });
  visits.parts = parts;
  return visits;
}

bool sums_well(int64_t n) {
  std::atomic<int64_t> sum{0};
  brief_parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum += i;
  });
  return sum == n * (n - 1) / 2;
}

TEST_CASE("a brief parallel loop visits every number once", "[kernels]") {
  for (const int n_threads : {1, 2, 3, 8}) {
    const Threads threads(n_threads);
    for (const int64_t n : {0, 1, 2, 3, 7, 8, 1000}) {
      for (const int64_t grain : {0, 1, 3, 2000}) {
        const auto visits = visits_of(n, grain);
        CHECK(visits.times == std::vector<int>(static_cast<size_t>(n), 1));
        CHECK(visits.parts <= n_threads);
        if (grain > n) CHECK(visits.parts == (n > 0 ? 1 : 0));
      }
    }
  }
}

TEST_CASE("a brief parallel loop uses all threads that its grain allows", "[kernels]") {
  const Threads threads(4);
  CHECK(visits_of(1000, 1).parts == 4);
  CHECK(visits_of(1000, 400).parts == 2);
}

TEST_CASE("brief parallel loops follow each other at once and after a pause", "[kernels]") {
  const Threads threads(4);
  for (int i = 0; i < 2000; ++i) {
    REQUIRE(sums_well(100));
    if (i % 100 == 0) ::usleep(1000);  // the workers sleep
  }
}

TEST_CASE("a brief parallel loop throws what a part throws, and the next one works", "[kernels]") {
  const Threads threads(3);
  for (const int64_t thrower : {0, 99}) {
    CHECK_THROWS_WITH(brief_parallel_for(100, 1,
                                         [&](int64_t begin, int64_t end) {
                                           if (begin <= thrower && thrower < end)
                                             throw std::runtime_error("from a part");
                                         }),
                      "from a part");
    CHECK(sums_well(100));
  }
}

TEST_CASE("brief parallel loops nest, and run from several threads at once", "[kernels]") {
  const Threads threads(2);
  std::atomic<int> good{0};
  brief_parallel_for(2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) good += sums_well(50);
  });
  CHECK(good == 2);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 500; ++round) good += sums_well(50);
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(good == 2 + 4 * 500);
}

TEST_CASE("a forked child runs brief parallel loops", "[kernels]") {
  const Threads threads(2);
  REQUIRE(sums_well(100));
  const pid_t child = ::fork();
  if (child == 0) ::_exit(sums_well(100) && visits_of(100, 1).parts == 2 ? 0 : 1);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

}  // namespace
}  // namespace regroup
