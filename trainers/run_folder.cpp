#include "trainers/run_folder.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "framework/atomic_write.h"
#include "framework/console.h"
#include "framework/error.h"
#include "framework/output_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStepPrefix = "step_";

bool is_occupied(const fs::path& folder) {
  if (!fs::exists(folder)) return false;
  return !fs::is_directory(folder) || !fs::is_empty(folder);
}

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof(name), "%s%08lld", kStepPrefix, static_cast<long long>(step));
  return name;
}

/// Checkpoint folders, newest first: their names sort by step.
std::vector<fs::path> checkpoints_in(const fs::path& folder) {
  std::vector<fs::path> found;
  if (!fs::is_directory(folder)) return found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const bool is_step = entry.path().filename().string().starts_with(kStepPrefix);
    if (is_step && entry.is_directory() && !entry.is_symlink()) found.push_back(entry.path());
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

fs::path without_final_slash(const fs::path& folder) {
  return folder.has_filename() ? folder : folder.parent_path();
}

void point_latest_at(const fs::path& checkpoints, const std::string& name) {
  const auto temporary = checkpoints / ".regroup-tmp-latest";
  fs::remove(temporary);
  fs::create_symlink(name, temporary);
  fs::rename(temporary, checkpoints / "latest");
}

}  // namespace

RunFolder::RunFolder(const RunStart& start)
    : path_(without_final_slash(start.folder)),
      replaced_(path_.parent_path() / (".regroup-tmp-replaced-" + path_.filename().string())),
      resume_(start.resume) {
  if (resume_) {
    const bool foreign = is_occupied(path_) && !fs::exists(config_file()) && checkpoints_in(path_ / "checkpoints").empty();
    if (foreign) {
      throw request_error(path_.string(), "holds something that is no training run", "Name the run's folder.");
    }
  } else if (is_occupied(path_)) {
    if (!start.force) {
      throw request_error(path_.string(), "exists and is not empty",
                          "Name another folder, continue with --resume, or replace the run with --force.");
    }
    check_output_folder(path_, start.force);
    // What a forced run replaces is kept until a run is complete here; of a forced run that failed nothing is kept.
    if (fs::exists(replaced_)) {
      fs::remove_all(path_);
    } else {
      fs::rename(path_, replaced_);
    }
  }
  fs::create_directories(path_ / "checkpoints");
  remove_leftovers(path_);
  remove_leftovers(path_ / "checkpoints");
}

std::optional<fs::path> RunFolder::newest_checkpoint() const {
  const auto found = checkpoints_in(path_ / "checkpoints");
  return found.empty() ? std::nullopt : std::optional(found.front());
}

void RunFolder::load_checkpoint(const std::function<void(const fs::path&)>& load) const {
  const auto found = checkpoints_in(path_ / "checkpoints");
  for (size_t i = 0; i < found.size(); ++i) {
    try {
      load(found[i]);
      return;
    } catch (const Error& error) {
      const bool is_last = i + 1 == found.size();
      if (error.exit_code() == ExitCode::kBadRequest || resume_ != ResumeMode::kAuto || is_last) throw;
      warn(c10::str("the checkpoint ", found[i].string(), " is damaged (", error.what(), "); taking the one before"));
    }
  }
}

void RunFolder::save_checkpoint(int64_t step, int64_t keep, const std::function<void(const fs::path&)>& fill) {
  const auto checkpoints = path_ / "checkpoints";
  AtomicFolder folder(checkpoints / step_name(step));
  fill(folder.path());
  folder.commit_replacing();
  point_latest_at(checkpoints, step_name(step));
  const auto found = checkpoints_in(checkpoints);
  for (size_t i = static_cast<size_t>(keep); i < found.size(); ++i) fs::remove_all(found[i]);
}

void RunFolder::finish() {
  fs::remove_all(replaced_);
}

}  // namespace regroup
