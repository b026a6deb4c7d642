#include "framework/progress/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/atomic_write.h"
#include "framework/settings/settings.h"

namespace regroup {
namespace {

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/false,
                                   nlohmann::json::error_handler_t::replace);
}

std::string json_text(int64_t value) { return std::to_string(value); }
std::string json_text(const std::string& value) { return quoted(value); }
std::string json_text(double value) {
  if (std::isnan(value)) return "\"NaN\"";
  if (std::isinf(value)) return value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  return print_number(value);
}

std::string json_line(const MetricFields& fields) {
  std::string line = "{";
  for (const auto& [name, value] : fields) {
    if (line.size() > 1) line += ", ";
    line += quoted(name) + ": ";
    line += std::visit([](const auto& held) { return json_text(held); }, value);
  }
  return line + "}\n";
}

/// The step of a complete line; nullopt for a torn one.
std::optional<int64_t> step_of(const std::string& line) {
  const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!record.is_object()) return std::nullopt;
  const auto step = record.find("step");
  if (step == record.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

std::string lines_up_to(const std::string& text, int64_t last_step) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool ends = !lines.eof();  // a torn line has no newline
    const auto step = step_of(line);
    if (ends && step && *step <= last_step) kept += line + "\n";
  }
  return kept;
}

std::string system_reason() { return std::strerror(errno); }

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& file)
    : file_(file), descriptor_(file, O_WRONLY | O_CREAT | O_APPEND) {
  if (!descriptor_.is_open()) {
    throw Error(file.string(), "cannot be opened for appending: " + system_reason(),
                "Check the folder's permissions.");
  }
}

MetricsLog MetricsLog::resume(const std::filesystem::path& file, int64_t last_step) {
  std::ifstream stream(file, std::ios::binary);
  if (stream) {
    std::ostringstream contents;
    contents << stream.rdbuf();
    const std::string kept = lines_up_to(contents.str(), last_step);
    if (kept != contents.str()) write_file_atomically(file, kept);
  }
  return MetricsLog(file);
}

void MetricsLog::append(const MetricFields& fields) {
  const std::string line = json_line(fields);
  ssize_t written = -1;
  do {
    written = ::write(descriptor_.value(), line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(line.size())) return;
  const std::string reason = written < 0 ? system_reason() : "the disk is full";
  throw Error(file_.string(), "a line could not be written: " + reason,
              "Make room, then resume from the last checkpoint.");
}

}  // namespace regroup
