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
  bool force = false;                // replace a run that stands there
  std::optional<ResumeMode> resume;  // continue it
};

/// Throws a request Error when the folder holds something and neither force nor resume allows that.
/// Changes nothing.
void check_run_start(const RunStart& start);

class RunFolder {
 public:
  /// Makes the folder, with config as its config.ini, or takes up the run in it: the first process
  /// does, while the others wait. Throws as check_run_start does, and a request Error when another
  /// run is at work in the folder. What force replaces is kept aside until finish(), and put back
  /// when this run ends without a checkpoint. world must outlive this.
  RunFolder(const RunStart& start, const std::string& config, World& world);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path metrics_file() const { return path_ / kMetrics; }
  std::filesystem::path final_folder() const;
  std::filesystem::path converted_folder() const;
  std::filesystem::path evaluation_file() const { return path_ / "evaluation.json"; }

  /// Of several processes, the first writes it.
  void write_config(const std::string& config) const;

  /// True when the run is continued and has a checkpoint to begin with.
  bool resumes() const { return !resumable_.empty(); }
  /// The checkpoint of the highest step; nothing where there is none.
  std::optional<std::filesystem::path> newest_checkpoint() const;
  /// Calls load with the newest checkpoint. Where that throws an Error (on all processes alike),
  /// kLatest passes it on; kAuto names the damage, goes on to the one before and sets the damaged
  /// ones aside.
  void load_checkpoint(const std::function<void(const std::filesystem::path&)>& load);

  /// Writes a process's files into a folder that all fill; gives their names.
  using Fill = std::function<std::vector<std::string>(const std::filesystem::path& folder)>;
  /// Writes checkpoints/step_NNNNNNNN in one step, once all processes have filled it, with its
  /// checksums; points latest at it, then removes all but the newest `keep`. May run beside
  /// training.
  void save_checkpoint(int64_t step, int64_t keep, const Fill& fill) const;
  /// Writes final/ likewise.
  void write_final(const Fill& fill) const;

  /// The run is complete: removes what force kept aside.
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
