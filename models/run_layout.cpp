#include "models/run_layout.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <regex>

#include "framework/errors/error.h"
#include "framework/files/tensor_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStepPrefix = "step_";
const std::string kHubPrefix = "models--";

bool is_checkpoint(const fs::directory_entry& entry) {
  return entry.path().filename().string().starts_with(kStepPrefix) && entry.is_directory() &&
         !entry.is_symlink();
}

/// The revision "main" in a repository's folder of the cache of huggingface_hub: refs/main holds
/// its name, snapshots/ its files.
std::optional<fs::path> hub_snapshot(const fs::path& repository) {
  std::ifstream reference(repository / "refs/main");
  std::string revision;
  if (!std::getline(reference, revision) || fs::path(revision).has_parent_path()) return {};
  const auto snapshot = repository / "snapshots" / revision;
  return fs::exists(snapshot / kConfigJson) ? std::optional(snapshot) : std::nullopt;
}

}  // namespace

bool is_training_state(std::string_view name) {
  return name == kChecksums || name.starts_with(kTrainingState);
}

std::string checkpoint_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof(name), "%s%08lld", kStepPrefix, static_cast<long long>(step));
  return name;
}

bool is_run(const fs::path& folder) {
  std::error_code ignored;
  const auto has = [&](const char* name) { return fs::exists(folder / name, ignored); };
  return (has(kRunConfig) && (has(kMetrics) || has(kCheckpoints))) ||
         !checkpoints_of(folder).empty();
}

std::vector<fs::path> checkpoints_of(const fs::path& run) {
  std::vector<fs::path> found;
  if (!fs::is_directory(run / kCheckpoints)) return found;
  for (const auto& entry : fs::directory_iterator(run / kCheckpoints)) {
    if (is_checkpoint(entry)) found.push_back(entry.path());
  }
  std::sort(found.rbegin(), found.rend());  // their names sort by step
  return found;
}

fs::path resolve_model_path(const fs::path& path) {
  const auto folder = fs::absolute(path).parent_path();
  const bool is_of_folder = path.filename() == kModelHdf5 && fs::exists(folder / kConfigJson);
  if (is_of_folder && fs::is_regular_file(path)) return folder;
  if (const auto snapshot = hub_snapshot(path)) return *snapshot;
  const auto latest = path / kCheckpoints / kLatestLink;
  if (fs::exists(path / kConfigJson) || !fs::exists(path / kCheckpoints)) return path;
  if (!fs::exists(latest)) {
    throw Error(path.string(), "is a run without a checkpoint",
                "Wait for its first one, or give a model folder.");
  }
  return fs::canonical(latest);
}

std::string model_name(const fs::path& folder) {
  auto path = fs::weakly_canonical(folder);
  if (!path.has_filename()) path = path.parent_path();
  const auto name = path.filename().string();
  // models--ORG--NAME/snapshots/HASH, in the cache of huggingface_hub
  const auto repository = path.parent_path().parent_path().filename().string();
  if (path.parent_path().filename() == "snapshots" && repository.starts_with(kHubPrefix))
    return std::regex_replace(repository.substr(kHubPrefix.size()), std::regex("--"), "/");
  if (name == kFinal || name == kConverted) return path.parent_path().filename().string();
  if (name.starts_with(kStepPrefix)) return path.parent_path().parent_path().filename().string();
  return name;
}

}  // namespace regroup
