#include "trainers/run_folder.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <sstream>

#include "framework/errors/error.h"
#include "framework/files/atomic_write.h"
#include "framework/progress/console.h"
#include "trainers/checkpoint.h"
#include "trainers/output_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

bool is_occupied(const fs::path& folder) {
  if (!fs::exists(folder)) return false;
  return !fs::is_directory(folder) || !fs::is_empty(folder);
}

/// True for the folder of a run that ended before its first file was complete.
bool has_only_begun(const fs::path& folder) {
  if (!fs::is_directory(folder)) return false;
  const fs::directory_iterator entries(folder);
  return std::all_of(fs::begin(entries), fs::end(entries), [](const fs::directory_entry& entry) {
    const auto name = entry.path().filename().string();
    return name == kRunConfig || name == kCheckpoints || is_temporary_name(name);
  });
}

fs::path without_final_slash(const fs::path& folder) {
  return folder.has_filename() ? folder : folder.parent_path();
}

void point_latest_at(const fs::path& checkpoints, const fs::path& name) {
  const auto temporary = checkpoints / ".regroup-tmp-latest";
  fs::remove(temporary);
  fs::create_symlink(name, temporary);
  fs::rename(temporary, checkpoints / kLatestLink);
}

}  // namespace

void check_run_start(const RunStart& start) {
  if (!is_occupied(start.folder)) return;
  if (start.resume) {
    if (!is_run(start.folder) && !has_only_begun(start.folder)) {
      throw request_error(start.folder.string(), "is not empty and not a training run",
                          "Name the run's folder.");
    }
    if (fs::exists(start.folder / kFinal) && checkpoints_of(start.folder).empty()) {
      throw request_error(start.folder.string(),
                          "holds a finished model, and no checkpoint to resume from",
                          "Name another folder; --force without --resume replaces the run.");
    }
    return;
  }
  if (!start.force) {
    throw request_error(
        start.folder.string(), "exists and is not empty",
        "Name another folder, continue with --resume, or replace the run with --force.");
  }
  check_output_folder(start.folder, start.force, start.inputs);
}

RunFolder::RunFolder(const RunStart& start, const std::string& config, World& world)
    : world_(world),
      path_(without_final_slash(start.folder)),
      replaced_(path_.parent_path() / (".regroup-replaced-" + path_.filename().string())),
      resume_(start.resume) {
  // Every rank uses rank 0's list: a network file system may show another rank an older one.
  const auto names = world.broadcast_string([&] {
    check_run_start(start);
    start_run(config);
    std::string found;
    for (const auto& checkpoint : resume_ ? checkpoints_of(path_) : std::vector<fs::path>())
      found += checkpoint.filename().string() + "\n";
    return found;
  });
  std::istringstream lines(names);
  for (std::string name; std::getline(lines, name);)
    resumable_.push_back(path_ / kCheckpoints / name);
}

void RunFolder::start_run(const std::string& config) {
  if (!resume_ && is_occupied(path_)) set_aside_old_run();
  fs::create_directories(path_);
  lock_.emplace(path_);
  fs::create_directories(path_ / kCheckpoints);
  const bool resumes = resume_ && newest_checkpoint();
  if (resume_ && !resumes) note(path_.string() + " has no checkpoint: the run starts at step 0");
  if (!resumes) write_config(config);  // at once, so that --resume recognises a run stopped early
  remove_leftovers(path_);
  remove_leftovers(path_ / kCheckpoints);
}

RunFolder::~RunFolder() {
  std::error_code ignored;
  if (!world_.is_rank_0() || !fs::exists(replaced_, ignored)) return;
  if (fs::exists(path_ / kCheckpoints / kLatestLink, ignored)) {
    note(c10::str("the run that this one replaces is kept in ", replaced_.string(),
                  " until this one is complete"));
    return;
  }
  fs::remove_all(path_, ignored);
  fs::rename(replaced_, path_, ignored);
}

fs::path RunFolder::final_folder() const { return path_ / kFinal; }
fs::path RunFolder::converted_folder() const { return path_ / kConverted; }

void RunFolder::write_config(const std::string& config) const {
  if (world_.is_rank_0()) write_file_atomically(path_ / kRunConfig, config);
}

/// An incomplete forced run is dropped: the run kept aside is still the one before it.
void RunFolder::set_aside_old_run() const {
  const FolderLock not_at_work(path_);
  if (fs::exists(replaced_)) {
    fs::remove_all(path_);
  } else {
    fs::rename(path_, replaced_);
  }
}

std::optional<fs::path> RunFolder::newest_checkpoint() const {
  const auto found = checkpoints_of(path_);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

void RunFolder::load_checkpoint(const std::function<void(const fs::path&)>& load) {
  const auto& found = resumable_;
  for (size_t i = 0; i < found.size(); ++i) {
    try {
      load(found[i]);
      if (i == 0 || !world_.is_rank_0()) return;
      for (size_t damaged = 0; damaged < i; ++damaged) set_aside_damaged(found[damaged]);
      point_latest_at(path_ / kCheckpoints, found[i].filename());
      return;
    } catch (const Error& error) {
      const bool is_last = i + 1 == found.size();
      if (error.exit_code() == ExitCode::kBadRequest || resume_ != ResumeMode::kAuto || is_last) {
        throw;
      }
      warn(c10::str("the checkpoint ", found[i].string(), " is damaged (", error.what(),
                    "); taking the one before"));
    }
  }
}

/// Renames it so that it no longer counts as a checkpoint, for resume or for `keep`.
void RunFolder::set_aside_damaged(const fs::path& checkpoint) const {
  const auto aside = checkpoint.parent_path() / ("damaged_" + checkpoint.filename().string());
  fs::remove_all(aside);
  fs::rename(checkpoint, aside);
}

std::unique_ptr<AtomicFolder> RunFolder::folder_to_fill(const fs::path& target) const {
  return world_.size() > 1 ? std::make_unique<AtomicFolder>(target, world_.launch_id())
                           : std::make_unique<AtomicFolder>(target);
}

void RunFolder::save_checkpoint(int64_t step, int64_t keep, const Fill& fill) const {
  const auto checkpoints = path_ / kCheckpoints;
  const auto writing = folder_to_fill(checkpoints / checkpoint_name(step));
  auto& folder = *writing;
  const auto lines = checksum_lines(folder.path(), fill(folder.path()));
  world_.gather_strings(checkpoint_name(step), lines,
                        [&](const std::vector<std::string>& all_lines) {
                          write_checksums(folder.path(), all_lines);
                          folder.commit_replacing();
                          point_latest_at(checkpoints, checkpoint_name(step));
                          const auto found = checkpoints_of(path_);
                          for (size_t i = static_cast<size_t>(keep); i < found.size(); ++i)
                            fs::remove_all(found[i]);
                        });
}

void RunFolder::write_final(const Fill& fill) const {
  const auto writing = folder_to_fill(final_folder());
  auto& folder = *writing;
  fill(folder.path());
  world_.gather_strings(kFinal, "", [&](const auto&) { folder.commit_replacing(); });
}

void RunFolder::finish() {
  if (world_.is_rank_0()) fs::remove_all(replaced_);
}

}  // namespace regroup
