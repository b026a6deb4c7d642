// models/run_layout.h: how the folder of a training run is laid out, as far as a model's path may
// name one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace regroup {

/// Names in a run's folder.
inline constexpr const char* kRunConfig = "config.ini";
inline constexpr const char* kMetrics = "metrics.jsonl";
inline constexpr const char* kCheckpoints = "checkpoints";  // holds step_NNNNNNNN and latest
inline constexpr const char* kLatestLink = "latest";        // a link to the newest checkpoint
inline constexpr const char* kConverted = "converted";      // the model that uptraining starts from
inline constexpr const char* kFinal = "final";              // the trained model

/// The name of a step's checkpoint: "step_00000100".
std::string checkpoint_name(int64_t step);

/// The checkpoints in a run's folder, newest first; none where it has none.
std::vector<std::filesystem::path> checkpoints_of(const std::filesystem::path& run);

/// Whether a folder is a training run's: its config beside metrics or checkpoints, or checkpoints.
bool is_run(const std::filesystem::path& folder);

/// The folder that MODEL stands for: itself, or a run's newest checkpoint. Throws Error for a run
/// that has none.
std::filesystem::path resolve_model_path(const std::filesystem::path& path);

/// What a model goes by in tables: its folder's name, or its run's where it stands in one.
std::string model_name(const std::filesystem::path& folder);

}  // namespace regroup
