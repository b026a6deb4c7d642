// framework/progress/metrics_log.h: metrics.jsonl, one JSON object a line, each line written whole
// or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "framework/files/file_descriptor.h"

namespace regroup {

using MetricValue = std::variant<int64_t, double, std::string>;
/// The fields of one line, in the order in which they are written.
using MetricFields = std::vector<std::pair<std::string, MetricValue>>;

/// Appends lines to a file. Numbers read back exactly. JSON has no numbers that are not finite:
/// they are written as the strings "NaN", "Infinity" and "-Infinity", which Python's float() reads.
class MetricsLog {
 public:
  /// Opens the file for appending, or makes it. Throws Error with the path and the system's reason.
  explicit MetricsLog(const std::filesystem::path& file);
  /// The same for a run that continues from a checkpoint at `last_step`: lines past it, lines
  /// without a step and torn lines are first taken out (by writing the file anew beside and
  /// renaming it).
  static MetricsLog resume(const std::filesystem::path& file, int64_t last_step);

  /// One write of one line. Throws Error when the line did not fit on the disk.
  void append(const MetricFields& fields);

 private:
  std::filesystem::path file_;
  FileDescriptor descriptor_;
};

}  // namespace regroup
