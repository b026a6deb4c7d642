// trainers/run_folder.h: the folder of a training run: config.ini, metrics.jsonl, checkpoints/,
// final/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "framework/distributed/world.h"
#include "framework/files/atomic_write.h"
#include "framework/files/folder_lock.h"
#include "models/run_layout.h"

namespace regroup {

enum class ResumeMode { kLatest, kAuto };

struct RunStart {
  std::filesystem::path folder;
  bool force = false;                              // replace a run that stands there
  std::optional<ResumeMode> resume;                // continue it
  std::vector<std::filesystem::path> inputs = {};  // what the run reads: not to be replaced
};

/// Throws a request Error if the folder is not empty and neither force nor resume allows that.
/// Changes nothing.
void check_run_start(const RunStart& start);

class RunFolder {
 public:
  /// Creates the folder with config as its config.ini, or continues the run in it. Rank 0 does the
  /// work; other ranks wait. Throws like check_run_start, and a request Error if another run uses
  /// the folder. A run that force replaces is kept aside until finish(), and restored if this run
  /// ends without a checkpoint. world must outlive this.
  RunFolder(const RunStart& start, const std::string& config, World& world);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path metrics_file() const { return path_ / kMetrics; }
  std::filesystem::path final_folder() const;
  std::filesystem::path converted_folder() const;
  std::filesystem::path evaluation_file() const { return path_ / kEvaluation; }

  /// Rank 0 writes the file.
  void write_config(const std::string& config) const;

  /// True if the run is resumed and has a checkpoint to start from.
  bool resumes() const { return !resumable_.empty(); }
  /// The checkpoint of the highest step, if any.
  std::optional<std::filesystem::path> newest_checkpoint() const;
  /// Calls load with the newest checkpoint. If load throws an Error (it must throw on all ranks),
  /// kLatest rethrows; kAuto prints a warning, tries the previous checkpoint and renames the
  /// damaged ones.
  void load_checkpoint(const std::function<void(const std::filesystem::path&)>& load);

  /// Writes this rank's files into a folder that all ranks share; returns their names.
  using Fill = std::function<std::vector<std::string>(const std::filesystem::path& folder)>;
  /// Writes checkpoints/step_NNNNNNNN with its checksums and renames it into place once all ranks
  /// have filled it; points `latest` at it, then removes all but the newest `keep` checkpoints. May
  /// run on another thread during training.
  void save_checkpoint(int64_t step, int64_t keep, const Fill& fill) const;
  /// Writes final/ in the same way.
  void write_final(const Fill& fill) const;

  /// Marks the run complete: removes the run that force kept aside.
  void finish();

 private:
  void start_run(const std::string& config);
  std::unique_ptr<AtomicFolder> folder_to_fill(const std::filesystem::path& target) const;
  void set_aside_old_run() const;
  void set_aside_damaged(const std::filesystem::path& checkpoint) const;

  World& world_;
  std::filesystem::path path_;
  std::filesystem::path replaced_;  // where a run that force replaces waits
  std::optional<ResumeMode> resume_;
  std::vector<std::filesystem::path> resumable_;  // checkpoints at the start, newest first
  std::optional<FolderLock> lock_;
};

}  // namespace regroup
