#include "framework/files/tensor_folder.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "framework/errors/error.h"
#include "framework/files/json.h"

namespace regroup {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

using WeightMap = std::map<std::string, std::string>;  // tensor name to shard file name

/// Refuses a shard whose name leads out of the folder. What stands under the name may be a link: a
/// link is a file.
void require_inside(const fs::path& folder, const std::string& shard) {
  const auto unfit = [&](const std::string& how) {
    return Error((folder / kIndexFile).string(),
                 c10::str("names the shard \"", shard, "\", which ", how),
                 "Every shard must be a file in the same folder.");
  };
  const fs::path name(shard);
  const bool is_outside =
      name.is_absolute() || std::find(name.begin(), name.end(), "..") != name.end();
  if (is_outside || shard.find('\0') != std::string::npos) throw unfit("leads out of the folder");
  std::error_code error;
  if (!fs::exists(folder / name, error)) {
    throw Error((folder / kIndexFile).string(),
                c10::str("names the shard \"", shard, "\", which is not there"),
                "If the download was interrupted, finish it; else get the model again.");
  }
  if (fs::is_directory(folder / name, error)) throw unfit("is a folder");
}

WeightMap read_index(const fs::path& folder) {
  const auto index = JsonObject::from_file(folder / kIndexFile);
  const auto weight_map = index.object("weight_map");
  WeightMap map;
  for (const auto& name : weight_map.keys()) map.emplace(name, weight_map.string(name));
  if (map.empty()) throw Error(index.where(), "its weight_map is empty", "Get the model again.");
  return map;
}

/// Throws the Error that explains why the folder cannot be read.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(folder.string(), "is not a folder", "Name a model folder in Hugging Face layout.");
  }
  static const std::set<std::string> kPickleSuffixes = {".bin", ".ckpt", ".pt", ".pth"};
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!kPickleSuffixes.contains(entry.path().extension().string())) continue;
    throw Error(folder.string(),
                "has no safetensors, only " + entry.path().filename().string() +
                    ", a pickle, and reading a pickle can run code that it carries",
                "Convert it where you trust it: load it in transformers and call "
                "save_pretrained(folder, safe_serialization=True).");
  }
  throw Error(folder.string(), c10::str("has neither ", kSingleFile, " nor ", kIndexFile),
              "Name a model folder in Hugging Face layout.");
}

/// The file names of the shards, and for each tensor the index of its shard.
std::vector<std::string> shard_names(const WeightMap& map) {
  std::set<std::string> names;
  for (const auto& [tensor, shard] : map) names.insert(shard);
  return {names.begin(), names.end()};
}

void check_index(const WeightMap& map, const std::vector<SafetensorsFile>& shards,
                 const std::map<std::string, size_t>& shard_of, const fs::path& folder) {
  Complaints complaints;
  for (const auto& [name, shard] : map) {
    if (!shards[shard_of.at(name)].entries().contains(name)) {
      complaints.add(c10::str("tensor ", name, " is missing from ", shard));
    }
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const auto& [name, entry] : shards[i].entries()) {
      const auto shard = shard_of.find(name);
      if (shard != shard_of.end() && shard->second == i) continue;
      complaints.add(c10::str("tensor ", name, " of ", shards[i].path().filename().string(),
                              shard == shard_of.end() ? " is not in the index"
                                                      : " stands in the index for another shard"));
    }
  }
  complaints.throw_if_any((folder / kIndexFile).string(),
                          "Index and shards must come from the same save; get them again.");
}

std::string shard_file_name(size_t number, size_t count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", number, count);
  return name;
}

/// Fills shards in order; the next one begins where a tensor would not fit, or has another writer.
std::vector<std::vector<TensorSource>> split_into_shards(const std::vector<TensorSource>& tensors,
                                                         size_t max_shard_bytes) {
  std::vector<std::vector<TensorSource>> shards(1);
  size_t filled = 0;
  for (const auto& tensor : tensors) {
    const bool fits = filled + tensor.bytes() <= max_shard_bytes &&
                      (shards.back().empty() || shards.back().back().writer == tensor.writer);
    if (!fits && !shards.back().empty()) {
      shards.emplace_back();
      filled = 0;
    }
    filled += tensor.bytes();
    shards.back().push_back(tensor);
  }
  return shards;
}

}  // namespace

TensorFolder TensorFolder::open(const fs::path& folder) {
  TensorFolder opened;
  opened.folder_ = folder;
  std::error_code error;
  if (fs::exists(folder / kSingleFile, error)) {
    opened.shards_.push_back(SafetensorsFile::open(folder / kSingleFile));
    for (const auto& [name, entry] : opened.shards_[0].entries()) opened.shard_of_[name] = 0;
    return opened;
  }
  if (!fs::exists(folder / kIndexFile, error)) refuse_folder(folder);
  const auto map = read_index(folder);
  const auto files = shard_names(map);
  for (const auto& file : files) require_inside(folder, file);
  for (const auto& file : files) opened.shards_.push_back(SafetensorsFile::open(folder / file));
  for (const auto& [name, file] : map) {
    opened.shard_of_[name] = std::lower_bound(files.begin(), files.end(), file) - files.begin();
  }
  check_index(map, opened.shards_, opened.shard_of_, folder);
  return opened;
}

std::set<std::string> TensorFolder::files() const {
  std::set<std::string> names;
  for (const auto& shard : shards_) names.insert(shard.path().lexically_relative(folder_).string());
  if (shards_[0].path().filename() != kSingleFile) names.insert(kIndexFile);
  return names;
}

std::vector<std::string> TensorFolder::unread_files() const {
  std::set<std::string> unread;
  const auto read = files();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const auto name = entry.path().filename().string();
    if (entry.path().extension() == ".safetensors" && !read.contains(name)) unread.insert(name);
  }
  return {unread.begin(), unread.end()};
}

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, shard] : shard_of_) names.push_back(name);
  return names;
}

const SafetensorsFile& TensorFolder::shard(const std::string& name) const {
  const auto found = shard_of_.find(name);
  if (found != shard_of_.end()) return shards_[found->second];
  throw Error(folder_.string(), "has no tensor " + name, "Check that the folder is complete.");
}

const TensorEntry& TensorFolder::entry(const std::string& name) const {
  return shard(name).entries().at(name);
}

at::Tensor TensorFolder::tensor(const std::string& name) const { return shard(name).tensor(name); }

std::vector<std::string> write_tensor_folder(const fs::path& folder,
                                             const std::vector<TensorSource>& tensors,
                                             int64_t max_shard_bytes, int writer) {
  const auto shards = split_into_shards(tensors, static_cast<size_t>(max_shard_bytes));
  std::vector<std::string> written;
  nlohmann::ordered_json index;
  size_t total_bytes = 0;
  for (const auto& tensor : tensors) total_bytes += tensor.bytes();
  index["metadata"]["total_size"] = total_bytes;
  for (size_t i = 0; i < shards.size(); ++i) {
    const auto file =
        shards.size() == 1 ? std::string(kSingleFile) : shard_file_name(i + 1, shards.size());
    for (const auto& tensor : shards[i]) index["weight_map"][tensor.name] = file;
    if (!shards[i].empty() && shards[i].front().writer != writer) continue;
    write_safetensors(folder / file, shards[i]);
    written.push_back(file);
  }
  if (shards.size() > 1 && writer == 0) {
    write_json_file(folder / kIndexFile, index);
    written.push_back(kIndexFile);
  }
  return written;
}

}  // namespace regroup
