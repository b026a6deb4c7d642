// framework/progress/metrics_log.h: metrics.jsonl, one JSON object per line. Each line is written
// whole or not at all.
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
/// The fields of one line, in the order of the file.
using MetricFields = std::vector<std::pair<std::string, MetricValue>>;

/// Appends lines to a file. Numbers read back exactly. JSON has no NaN or infinity: these are
/// written as the strings "NaN", "Infinity" and "-Infinity", which Python's float() parses.
class MetricsLog {
 public:
  /// Opens the file for appending, or creates it. Throws Error with the path and the system's
  /// reason.
  explicit MetricsLog(const std::filesystem::path& file);
  /// As the constructor, for a run that continues from a checkpoint at `last_step`: first removes
  /// later lines, lines without a step and torn lines (rewrites the file beside it and renames it).
  static MetricsLog resume(const std::filesystem::path& file, int64_t last_step);

  /// Writes one line in one write. Throws Error when the disk has no room for it.
  void append(const MetricFields& fields);

 private:
  std::filesystem::path file_;
  FileDescriptor descriptor_;
};

}  // namespace regroup
