#include "framework/process/processors.h"

#include <sched.h>
#include <torch/utils.h>

#include <cmath>
#include <cstdlib>
#include <optional>

#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

using testing::TempFolder;

/// A folder that stands for "/" of a process in these cgroups, by the text of /proc/self/cgroup.
class FakeRoot {
 public:
  explicit FakeRoot(const std::string& groups) { write("proc/self", "cgroup", groups); }
  FakeRoot& v2(const std::string& group, const std::string& cpu_max) {
    write("sys/fs/cgroup/" + group, "cpu.max", cpu_max + "\n");
    return *this;
  }
  FakeRoot& v1(const std::string& mount, const std::string& group, const std::string& quota) {
    write("sys/fs/cgroup/" + mount + "/" + group, "cpu.cfs_quota_us", quota + "\n");
    write("sys/fs/cgroup/" + mount + "/" + group, "cpu.cfs_period_us", "100000\n");
    return *this;
  }
  std::optional<double> quota() const { return cgroup_quota(folder_.path()); }

 private:
  void write(const std::string& folder, const std::string& name, const std::string& text) {
    std::filesystem::create_directories(folder_ / folder);
    folder_.write(folder + "/" + name, text);
  }

  TempFolder folder_;
};

TEST_CASE("a quota of cgroup version 2", "[processors]") {
  CHECK(FakeRoot("0::/job\n").v2("job", "150000 100000").quota() == 1.5);
  CHECK_FALSE(FakeRoot("0::/job\n").v2("job", "max 100000").quota());
  CHECK(FakeRoot("0::/\n").v2("", "400000 100000").quota() == 4);
}

TEST_CASE("of nested groups the smallest quota counts", "[processors]") {
  CHECK(FakeRoot("0::/a/b/c\n").v2("a", "200000 100000").v2("a/b", "max 100000").quota() == 2);
  CHECK(FakeRoot("0::/a/b\n").v2("a", "300000 100000").v2("a/b", "50000 50000").quota() == 1);
  CHECK(FakeRoot("0::/a/b\n").v2("a", "50000 50000").v2("a/b", "300000 100000").quota() == 1);
}

TEST_CASE("other groups' quotas do not count", "[processors]") {
  CHECK_FALSE(FakeRoot("0::/a\n").v2("a/below", "100000 100000").v2("b", "1000 1000").quota());
}

TEST_CASE("a quota of cgroup version 1", "[processors]") {
  const std::string groups = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n";
  CHECK(FakeRoot(groups).v1("cpu,cpuacct", "job", "250000").quota() == 2.5);
  CHECK_FALSE(FakeRoot(groups).v1("cpu,cpuacct", "job", "-1").quota());
  CHECK(FakeRoot("1:cpu:/job\n").v1("cpu", "job", "100000").quota() == 1);
  CHECK_FALSE(FakeRoot("3:cpuset:/job\n").v1("cpuset", "job", "100000").quota());
}

TEST_CASE("a container sees its own group where its files are mounted", "[processors]") {
  CHECK(FakeRoot("0::/host/docker/123\n").v2("", "300000 100000").quota() == 3);
  CHECK(FakeRoot("4:cpu,cpuacct:/docker/123\n").v1("cpu", "", "300000").quota() == 3);
}

TEST_CASE("what cannot be read is no quota", "[processors]") {
  CHECK_FALSE(FakeRoot("").quota());
  CHECK_FALSE(FakeRoot("nonsense\n0\n").quota());
  CHECK_FALSE(FakeRoot("0::/job\n").v2("job", "").quota());
  CHECK_FALSE(FakeRoot("0::/job\n").v2("job", "100000").quota());
  CHECK_FALSE(FakeRoot("0::/job\n").v2("job", "100000 0").quota());
  CHECK_FALSE(cgroup_quota("/nowhere"));
}

TEST_CASE("threads are what affinity and quota allow, rounded up, at least one", "[processors]") {
  CHECK(available_threads(8, std::nullopt) == 8);
  CHECK(available_threads(8, 2.5) == 3);
  CHECK(available_threads(2, 64) == 2);
  CHECK(available_threads(8, 0.2) == 1);
  CHECK(available_threads(0, std::nullopt) == 1);
}

/// Variables and threads as they were, when the test ends.
class EnvironmentOfThreads {
 public:
  EnvironmentOfThreads() : threads_(torch::get_num_threads()) { clear(); }
  ~EnvironmentOfThreads() {
    clear();
    torch::set_num_threads(threads_);
  }
  static void clear() {
    unsetenv("OMP_NUM_THREADS");
    unsetenv("TORCHELASTIC_RUN_ID");
  }

 private:
  int threads_;
};

TEST_CASE("processes of a node share its processors unless the user chose", "[processors]") {
  const EnvironmentOfThreads restored;
  const auto all = available_threads(allowed_processors().size(), cgroup_quota());
  use_default_threads();
  CHECK(torch::get_num_threads() == all);
  use_default_threads(1'000'000);
  CHECK(torch::get_num_threads() == 1);

  torch::set_num_threads(3);
  setenv("OMP_NUM_THREADS", "3", 1);
  use_default_threads();
  CHECK(torch::get_num_threads() == 3);

  setenv("OMP_NUM_THREADS", "1", 1);
  use_default_threads();
  CHECK(torch::get_num_threads() == 3);
  setenv("TORCHELASTIC_RUN_ID", "none", 1);  // torchrun chose 1, not the user
  use_default_threads();
  CHECK(torch::get_num_threads() == all);
}

TEST_CASE("threads follow the process's affinity", "[processors]") {
  const auto allowed = allowed_processors();
  REQUIRE_FALSE(allowed.empty());
  cpu_set_t before, one;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(allowed.back()), &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(allowed_processors() == std::vector<int>{allowed.back()});
  sched_setaffinity(0, sizeof before, &before);
}

TEST_CASE("processes share processors if their node and affinity are the same", "[processors]") {
  const double key = processors_key("node-1", {0, 1});
  CHECK(key == processors_key("node-1", {0, 1}));
  CHECK(key != processors_key("node-2", {0, 1}));
  CHECK(key != processors_key("node-1", {2, 3}));
  CHECK(key == std::floor(key));
  CHECK(key < 0x1p53);
}

TEST_CASE("busy time is that of the allowed processors, stolen time included", "[processors]") {
  const std::string stat =
      "cpu  999 999 999 999 999 999 999 999 0 0\n"
      "cpu0 100 20 30 5000 700 4 5 41 9 9\n"
      "cpu1 1000 0 0 5000 0 0 0 0 0 0\n"
      "cpu10 1 1 1 1 1 1 1 1 0 0\n"
      "intr 12345\n";
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  CHECK(busy_seconds(stat, {0}) * ticks == Approx(200));
  CHECK(busy_seconds(stat, {0, 1}) * ticks == Approx(1200));
  CHECK(busy_seconds("", {0}) == 0);
}

TEST_CASE("this process's own work is not that of other processes", "[processors]") {
  const OtherProcesses others;
  volatile double sum = 0;
  while (others.own_seconds() < 0.05) sum = sum + 1;
  CHECK(others.busy_processors(/*peer_seconds=*/1e9) == 0);
  CHECK(others.busy_processors() <= static_cast<double>(allowed_processors().size()));
}

TEST_CASE("a machine is busy where threads lack processors", "[processors]") {
  CHECK_FALSE(are_too_few_left(0.1, 2, 2));
  CHECK(are_too_few_left(0.3, 2, 2));
  CHECK_FALSE(are_too_few_left(4, 2, 16));  // enough are left
  CHECK(are_too_few_left(15, 2, 16));
  CHECK_FALSE(are_too_few_left(0, 8, 2));  // its own threads are too many
}

}  // namespace
}  // namespace regroup
