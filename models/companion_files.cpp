#include "models/companion_files.h"

#include <fnmatch.h>

#include <algorithm>
#include <initializer_list>
#include <system_error>

#include "framework/errors/error.h"
#include "framework/files/atomic_write.h"
#include "models/run_layout.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kLargestFile = uintmax_t{256} << 20;  // the largest tokenizers have some 40 MB
constexpr size_t kMostFiles = 1000;                       // below a subfolder

using Patterns = std::initializer_list<const char*>;  // of fnmatch(3), any case

constexpr Patterns kTokenizerFiles = {"tokenizer*", "tokenization_*", "vocab*"};
constexpr Patterns kWeights = {"*.safetensors", "*.bin",     "*.pt",        "*.pth",      "*.ckpt",
                               "*.h5",          "*.hdf5",    "*.msgpack",   "*.gguf",     "*.ggml",
                               "*.onnx",        "*.ot",      "*.npz",       "*.npy",      "*.pkl",
                               "*.pb",          "*.tflite",  "*.onnx_data", "*.zip",      "*.tar",
                               "*.nemo",        "*.mlmodel", "*.tar.*",     "*.onnx.data"};
constexpr Patterns kAboutWeights = {"config.json",         "params.json",  "adapter_config.json",
                                    "model_index.json",    "*.index.json", "quant*_config.json",
                                    "hf_quant_config.json"};
constexpr Patterns kTraining = {
    "trainer_state.json",   "*_results.json", "training_args*", "latest",
    "events.out.tfevents*", "*.log",          "metrics.jsonl"};
constexpr Patterns kModelCards = {"README*", "model_card*", "*.png", "*.jpg",
                                  "*.jpeg",  "*.gif",       "*.svg", "*.pdf"};
constexpr Patterns kModelCode = {"modeling_*.py", "modular_*.py", "configuration_*.py",
                                 "zero_to_fp32.py"};

bool matches(const std::string& name, Patterns patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const char* pattern) {
    return ::fnmatch(pattern, name.c_str(), FNM_CASEFOLD) == 0;
  });
}

/// Files that make a folder one of weights or of training.
bool is_of_weights_or_training(const std::string& name) {
  if (matches(name, kAboutWeights) || matches(name, kTraining)) return true;
  return matches(name, kWeights) && !matches(name, kTokenizerFiles);
}

bool travels(const fs::path& file) {
  const auto name = file.filename().string();
  if (name.starts_with('.') || is_of_weights_or_training(name)) return false;
  if (matches(name, kModelCards) || matches(name, kModelCode)) return false;
  std::error_code error;
  return fs::is_regular_file(file, error) && fs::file_size(file, error) <= kLargestFile && !error;
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) entries.push_back(entry.path());
  if (error) {
    throw Error(folder.string(), "cannot list the folder: " + error.message(),
                "Check the path and its permissions.");
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

/// Sorts the files of a folder into those that travel and those that stay behind.
class Selection {
 public:
  Selection(fs::path folder, const std::set<std::string>& replaced) : folder_(std::move(folder)) {
    enter(folder_);
    for (const auto& entry : sorted_entries(folder_)) {
      const auto name = entry.filename().string();
      const bool is_known = replaced.contains(name) || is_training_state(name);
      if (!is_known && !is_temporary_name(name)) add(entry);
      n_seen_ = 0;
    }
  }

  /// Paths in the folder.
  const std::vector<std::string>& travelling() const { return travelling_; }
  const std::vector<std::string>& left() const { return left_; }

 private:
  std::string name_of(const fs::path& path) const {
    return path.lexically_relative(folder_).string();
  }

  void add(const fs::path& path) {
    std::error_code error;
    if (fs::is_directory(path, error)) {
      add_folder(path);
    } else {
      (travels(path) ? travelling_ : left_).push_back(name_of(path));
    }
  }

  /// Takes back what it added where the folder turns out to be one that stays behind.
  void add_folder(const fs::path& folder) {
    const auto n_travelling = travelling_.size(), n_left = left_.size();
    const bool is_hidden = folder.filename().string().starts_with('.');
    if (!is_hidden && enter(folder) && add_entries(folder)) return;
    travelling_.resize(n_travelling);
    left_.resize(n_left);
    left_.push_back(name_of(folder) + "/");
  }

  /// -> false where the folder stays behind.
  bool add_entries(const fs::path& folder) {
    for (const auto& entry : sorted_entries(folder)) {
      if (is_of_weights_or_training(entry.filename().string())) return false;
      add(entry);
      if (++n_seen_ > kMostFiles) return false;
    }
    return true;
  }

  /// -> false for a folder that was entered before, as in a loop of links.
  bool enter(const fs::path& folder) {
    std::error_code error;
    return entered_.insert(fs::canonical(folder, error)).second && !error;
  }

  fs::path folder_;
  std::set<fs::path> entered_;
  size_t n_seen_ = 0;  // below one entry of folder_
  std::vector<std::string> travelling_, left_;
};

}  // namespace

std::vector<std::string> copy_companion_files(const fs::path& from, const fs::path& to,
                                              const std::set<std::string>& replaced) {
  const Selection selection(from, replaced);
  for (const auto& file : selection.travelling()) copy_file_atomically(from / file, to / file);
  return selection.left();
}

}  // namespace regroup
