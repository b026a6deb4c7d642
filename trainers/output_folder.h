// trainers/output_folder.h: whether a command may write to a folder. Folders that a user made are
// never replaced.
#pragma once

#include <filesystem>
#include <vector>

namespace regroup {

/// True for a model folder or a run folder that Regroup wrote: a config.json with the key
/// `regroup`, or a config.ini beside metrics.jsonl or checkpoints.
bool is_regroup_folder(const std::filesystem::path& folder);

/// Throws a request Error (exit code 2) if folder is a file, or exists and is not empty; force
/// allows a non-empty folder that Regroup wrote, unless it holds one of the job's inputs, which
/// would be replaced with it. Empty inputs count as not given.
void check_output_folder(const std::filesystem::path& folder, bool force,
                         const std::vector<std::filesystem::path>& inputs);

}  // namespace regroup
