// trainers/run_folder.h: the folder of a training run: config.ini, metrics.jsonl, checkpoints/, final/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace regroup {

enum class ResumeMode { kLatest, kAuto };

struct RunStart {
  std::filesystem::path folder;
  bool force = false;                // replace a run that stands there
  std::optional<ResumeMode> resume;  // continue it
};

class RunFolder {
 public:
  /// Makes the folder, or takes up the run in it. Throws a request Error when it holds something and neither force nor
  /// resume allows that; force replaces only what Regroup wrote, and keeps it aside until finish().
  explicit RunFolder(const RunStart& start);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config_file() const { return path_ / "config.ini"; }
  std::filesystem::path metrics_file() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path final_folder() const { return path_ / "final"; }
  std::filesystem::path converted_folder() const { return path_ / "converted"; }
  std::filesystem::path evaluation_file() const { return path_ / "evaluation.json"; }

  /// True when the run is continued and has a checkpoint.
  bool resumes() const { return resume_ && newest_checkpoint(); }
  /// The checkpoint of the highest step; nothing where there is none.
  std::optional<std::filesystem::path> newest_checkpoint() const;
  /// Calls load with the newest checkpoint. Where that throws an Error, kLatest passes it on and kAuto names the damage
  /// and goes on to the one before.
  void load_checkpoint(const std::function<void(const std::filesystem::path&)>& load) const;

  /// Writes checkpoints/step_NNNNNNNN in one step, points latest at it, then removes all but the newest `keep`.
  void save_checkpoint(int64_t step, int64_t keep, const std::function<void(const std::filesystem::path&)>& fill);

  /// Removes what force kept aside.
  void finish();

 private:
  std::filesystem::path path_;
  std::filesystem::path replaced_;  // where a run that force replaces waits
  std::optional<ResumeMode> resume_;
};

}  // namespace regroup
