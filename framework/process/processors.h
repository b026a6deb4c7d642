// framework/process/processors.h: how many processors this process may use, and how busy other
// processes keep them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace regroup {

/// The CPU quota of this process's cgroups (version 1 or 2), in processors: the smallest on the way
/// from its own group up to the root. Nothing where no group has one. root: the folder that stands
/// for "/".
std::optional<double> cgroup_quota(const std::filesystem::path& root = "/");

/// The numbers of the processors that this process's affinity allows.
std::vector<int> allowed_processors();

/// Threads that the processors of affinity and quota can run at once, at least 1; a part of a
/// processor counts as a whole.
int64_t available_threads(size_t n_allowed, std::optional<double> quota);

/// A whole number below 2^53 that two processes share if they may run on the same processors of the
/// same node.
double processors_key(const std::string& node, const std::vector<int>& processors);

/// Sets LibTorch's threads to this process's share of what affinity and quota allow, where
/// n_processes of a job may run on the same processors; a number that the user chose in
/// OMP_NUM_THREADS stays. (torchrun sets OMP_NUM_THREADS=1 where the user chose nothing; that does
/// not count.)
void use_default_threads(int64_t n_processes = 1);

/// Processor seconds that the kernel has counted as busy on these processors, by the text of
/// /proc/stat.
double busy_seconds(const std::string& proc_stat, const std::vector<int>& processors);

/// Watches from its construction on how much other processes compute on this process's processors.
class OtherProcesses {
 public:
  OtherProcesses();
  /// Processors that they kept busy since then, on average: 0 on a quiet machine, at most
  /// allowed_processors(). peer_seconds: processor seconds of processes that belong to this job.
  double busy_processors(double peer_seconds = 0) const;
  /// Processor seconds that this process has spent since then.
  double own_seconds() const;

 private:
  std::vector<int> processors_;
  double began_at_, busy_before_, own_before_;
};

/// Whether n_threads that computed all the time were slowed down noticeably, because other
/// processes kept busy_elsewhere of the n_allowed processors.
bool are_too_few_left(double busy_elsewhere, int64_t n_threads, size_t n_allowed);

}  // namespace regroup
