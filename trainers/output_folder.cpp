#include "trainers/output_folder.h"

#include <algorithm>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "models/run_layout.h"

namespace regroup {
namespace fs = std::filesystem;
namespace {

bool has_regroup_config(const fs::path& folder) {
  try {
    const auto config = JsonObject::from_file(folder / "config.json");
    // transformers keeps our key when it saves a model that it loaded from our folder.
    return config.has("regroup") && !config.has("transformers_version");
  } catch (const Error&) {
    return false;  // no config.json, or not one that Regroup wrote
  }
}

bool holds(const fs::path& folder, const fs::path& input) {
  const auto outer = fs::weakly_canonical(folder), inner = fs::weakly_canonical(input);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

void refuse_to_replace_inputs(const fs::path& folder, const std::vector<fs::path>& inputs) {
  for (const auto& input : inputs) {
    if (input.empty() || !holds(folder, input)) continue;
    throw request_error(
        folder.string(),
        "holds " + input.string() + ", which this job reads: --force would delete it",
        "Name another folder.");
  }
}

}  // namespace

bool is_regroup_folder(const fs::path& folder) {
  return is_run(folder) || has_regroup_config(folder);
}

void check_output_folder(const fs::path& folder, bool force, const std::vector<fs::path>& inputs) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  if (!fs::is_directory(folder, error)) {
    throw request_error(folder.string(), "is a file", "Name a folder to write.");
  }
  const bool is_empty = fs::is_empty(folder, error);
  if (error) throw Error(folder.string(), "cannot list it: " + error.message(), "");
  if (is_empty) return;
  if (!force) {
    throw request_error(folder.string(), "exists and is not empty",
                        "Name another folder, or add --force to replace one that Regroup wrote.");
  }
  refuse_to_replace_inputs(folder, inputs);
  if (is_regroup_folder(folder)) return;
  throw request_error(folder.string(), "is not empty and was not written by Regroup",
                      "Name another folder; --force replaces only folders that Regroup wrote.");
}

}  // namespace regroup
