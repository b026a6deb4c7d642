// trainers/output_folder.h: whether a folder may be written to: what a user made is never
// replaced.
#pragma once

#include <filesystem>

namespace regroup {

/// True for a model folder or a run folder that Regroup wrote: a config.json with the key
/// `regroup`, or a config.ini beside metrics.jsonl or checkpoints.
bool is_regroup_folder(const std::filesystem::path& folder);

/// Refuses (exit code 2) an output folder that exists and is not empty, unless `force` is set and
/// Regroup wrote it; also one that is a file.
void check_output_folder(const std::filesystem::path& folder, bool force);

}  // namespace regroup
