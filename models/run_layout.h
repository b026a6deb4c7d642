// models/run_layout.h: names in the folders of runs and models, and the model that a path means.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace regroup {

/// Names in a run's folder.
inline constexpr const char* kRunConfig = "config.ini";
inline constexpr const char* kMetrics = "metrics.jsonl";
inline constexpr const char* kCheckpoints = "checkpoints";  // holds step_NNNNNNNN and latest
inline constexpr const char* kLatestLink = "latest";        // a link to the newest checkpoint
inline constexpr const char* kConverted = "converted";      // the model that uptraining starts from
inline constexpr const char* kFinal = "final";              // the trained model
inline constexpr const char* kEvaluation = "evaluation.json";

/// Names in a checkpoint, beside those of its model.
inline constexpr const char* kChecksums = "checksums.json";
inline constexpr const char* kTrainingState = "training_state";  // .h5, or _RANK_of_SIZE.h5

/// True for the name of a checkpoint's file that is not of its model.
bool is_training_state(std::string_view name);

/// The name of a step's checkpoint: "step_00000100".
std::string checkpoint_name(int64_t step);

/// The checkpoints in a run's folder, newest first.
std::vector<std::filesystem::path> checkpoints_of(const std::filesystem::path& run);

/// True for a training run's folder: one with checkpoints, or with config.ini beside metrics.
bool is_run(const std::filesystem::path& folder);

/// Names in a model's folder.
inline constexpr const char* kConfigJson = "config.json";
inline constexpr const char* kModelCard = "README.md";

/// The model folder that a MODEL argument means: the path itself, a run's newest checkpoint, the
/// folder of a model.h5, or the main snapshot in a repository's folder of the Hub's cache.
/// Throws Error for a run without a checkpoint.
std::filesystem::path resolve_model_path(const std::filesystem::path& path);

/// A model's name in tables: its folder's name, the run's name for a folder in a run, or
/// "org/name" for one in the cache of huggingface_hub.
std::string model_name(const std::filesystem::path& folder);

}  // namespace regroup
