#include "framework/process/processors.h"

#include <c10/util/StringUtil.h>
#include <sched.h>
#include <sys/resource.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>

#include "framework/progress/progress.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr double kNoticeableShare = 0.1;  // of the processors that the threads can use

/// The first numbers of a file; fewer where it has not so many, or none.
std::vector<double> numbers_in(const fs::path& file) {
  std::ifstream stream(file);
  std::vector<double> numbers;
  for (double number = 0; stream >> number;) numbers.push_back(number);
  return numbers;
}

std::optional<double> ratio(const std::vector<double>& quota, const std::vector<double>& period) {
  if (quota.empty() || period.empty() || quota[0] <= 0 || period[0] <= 0) return std::nullopt;
  return quota[0] / period[0];
}

/// cpu.max has "QUOTA PERIOD", or "max PERIOD" for no quota.
std::optional<double> quota_v2(const fs::path& group) {
  const auto numbers = numbers_in(group / "cpu.max");
  if (numbers.size() < 2) return std::nullopt;
  return ratio(numbers, {numbers[1]});
}

/// A quota of -1 stands for none.
std::optional<double> quota_v1(const fs::path& group) {
  return ratio(numbers_in(group / "cpu.cfs_quota_us"), numbers_in(group / "cpu.cfs_period_us"));
}

std::optional<double> smaller(std::optional<double> a, std::optional<double> b) {
  if (!a || !b) return a ? a : b;
  return std::min(*a, *b);
}

/// The smallest quota of a group and the groups around it. Inside a container the path may be the
/// host's, of which only the container's own group, at the mount, can be seen.
template <class Quota>
std::optional<double> smallest_quota(const fs::path& mount, const std::string& path, Quota quota) {
  auto group = fs::path(path).lexically_normal().relative_path();
  auto smallest = quota(mount);
  for (; !group.empty(); group = group.parent_path()) {
    smallest = smaller(smallest, quota(mount / group));
  }
  return smallest;
}

bool has_cpu(std::string controllers) {
  return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

bool user_chose_threads() {
  const char* threads = std::getenv("OMP_NUM_THREADS");
  if (!threads || !*threads) return false;
  return std::strcmp(threads, "1") != 0 || !std::getenv("TORCHELASTIC_RUN_ID");
}

std::string proc_stat() {
  std::ostringstream text;
  text << std::ifstream("/proc/stat").rdbuf();
  return text.str();
}

double process_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

std::optional<double> cgroup_quota(const fs::path& root) {
  const auto mounts = root / "sys/fs/cgroup";
  std::ifstream groups(root / "proc/self/cgroup");
  std::optional<double> smallest;
  for (std::string line; std::getline(groups, line);) {  // "number:controllers:path"
    std::istringstream fields(line);
    std::string number, controllers, path;
    std::getline(fields, number, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    if (controllers.empty()) {
      smallest = smaller(smallest, smallest_quota(mounts, path, quota_v2));
    } else if (has_cpu(controllers)) {
      const auto mount = fs::exists(mounts / controllers) ? mounts / controllers : mounts / "cpu";
      smallest = smaller(smallest, smallest_quota(mount, path, quota_v1));
    }
  }
  return smallest;
}

std::vector<int> allowed_processors() {
  std::vector<int> allowed;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return allowed;  // more than a set holds
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) allowed.push_back(i);
  }
  return allowed;
}

int64_t available_threads(size_t n_allowed, std::optional<double> quota) {
  const auto n = static_cast<double>(n_allowed);
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(std::min(n, quota.value_or(n)))));
}

double processors_key(const std::string& node, const std::vector<int>& processors) {
  const auto hash = std::hash<std::string>()(node + " " + c10::Join(",", processors));
  return static_cast<double>(hash >> 11);
}

void use_default_threads(int64_t n_processes) {
  if (user_chose_threads()) return;
  const int64_t threads = available_threads(allowed_processors().size(), cgroup_quota());
  torch::set_num_threads(static_cast<int>(std::max<int64_t>(1, threads / n_processes)));
}

double busy_seconds(const std::string& stat, const std::vector<int>& processors) {
  std::istringstream lines(stat);
  double ticks = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name;
    double user = 0, nice = 0, system = 0, idle = 0, waiting = 0, irq = 0, softirq = 0, stolen = 0;
    fields >> name >> user >> nice >> system >> idle >> waiting >> irq >> softirq >> stolen;
    const bool is_ours = std::any_of(processors.begin(), processors.end(),
                                     [&](int i) { return name == "cpu" + std::to_string(i); });
    if (is_ours) ticks += user + nice + system + irq + softirq + stolen;
  }
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

OtherProcesses::OtherProcesses()
    : processors_(allowed_processors()),
      began_at_(steady_seconds()),
      busy_before_(busy_seconds(proc_stat(), processors_)),
      own_before_(process_seconds()) {}

double OtherProcesses::own_seconds() const { return process_seconds() - own_before_; }

double OtherProcesses::busy_processors(double peer_seconds) const {
  const double busy = busy_seconds(proc_stat(), processors_) - busy_before_;
  const double others = busy - own_seconds() - peer_seconds;
  const double seconds = std::max(1e-9, steady_seconds() - began_at_);
  return std::clamp(others / seconds, 0.0, static_cast<double>(processors_.size()));
}

bool are_too_few_left(double busy_elsewhere, int64_t n_threads, size_t n_allowed) {
  const auto threads = static_cast<double>(n_threads), allowed = static_cast<double>(n_allowed);
  const double lost = std::min(busy_elsewhere, threads + busy_elsewhere - allowed);
  return lost > kNoticeableShare * std::min(threads, allowed);
}

}  // namespace regroup
