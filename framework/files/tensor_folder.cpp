#include "framework/files/tensor_folder.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "framework/errors/error.h"
#include "framework/files/hdf5_tensors.h"
#include "framework/files/json.h"
#include "framework/files/safetensors.h"

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

/// The names of a folder's files with these endings, sorted.
std::set<std::string> files_ending_in(const fs::path& folder,
                                      const std::set<std::string>& endings) {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (endings.contains(entry.path().extension().string()))
      names.insert(entry.path().filename().string());
  }
  return names;
}

/// Throws the Error that explains why the folder cannot be read.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(folder.string(), "is not a folder", "Name a model folder in Hugging Face layout.");
  }
  const auto pickles = files_ending_in(folder, {".bin", ".ckpt", ".pt", ".pth"});
  if (!pickles.empty()) {
    throw Error(folder.string(),
                "has no safetensors, only " + *pickles.begin() +
                    ", a pickle, and reading a pickle can run code that it carries",
                "Convert it where you trust it: load it in transformers and call "
                "save_pretrained(folder, safe_serialization=True).");
  }
  const auto others = files_ending_in(folder, {".safetensors", ".gguf"});
  throw Error(folder.string(),
              c10::str("has neither ", kSingleFile, " nor ", kIndexFile, " nor ", kModelHdf5,
                       others.empty() ? "" : ", only ", c10::Join(", ", others)),
              "Name a model folder in Hugging Face layout.");
}

/// The file names of the shards, and for each tensor the index of its shard.
std::vector<std::string> shard_names(const WeightMap& map) {
  std::set<std::string> names;
  for (const auto& [tensor, shard] : map) names.insert(shard);
  return {names.begin(), names.end()};
}

void check_index(const WeightMap& map, const std::vector<std::shared_ptr<const TensorFile>>& shards,
                 const std::map<std::string, size_t>& shard_of, const fs::path& folder) {
  Complaints complaints;
  for (const auto& [name, shard] : map) {
    if (!shards[shard_of.at(name)]->contains(name)) {
      complaints.add(c10::str("tensor ", name, " is missing from ", shard));
    }
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const auto& name : shards[i]->names()) {
      const auto shard = shard_of.find(name);
      if (shard != shard_of.end() && shard->second == i) continue;
      complaints.add(c10::str("tensor ", name, " of ", shards[i]->path().filename().string(),
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
  std::error_code error;
  const bool is_file = !fs::is_directory(folder, error) && fs::exists(folder, error);
  if (is_file) return of_one_file(folder, Hdf5Tensors::open(folder));
  if (fs::exists(folder / kSingleFile, error))
    return of_one_file(folder, SafetensorsFile::open(folder / kSingleFile));
  if (fs::exists(folder / kIndexFile, error)) return of_shards(folder);
  if (fs::exists(folder / kModelHdf5, error))
    return of_one_file(folder, Hdf5Tensors::open(folder / kModelHdf5));
  refuse_folder(folder);
}

template <typename File>
TensorFolder TensorFolder::of_one_file(const fs::path& path, File file) {
  TensorFolder opened;
  opened.folder_ = path;
  opened.files_ = {file.path().filename().string()};
  for (const auto& name : file.names()) opened.shard_of_[name] = 0;
  opened.shards_.push_back(std::make_shared<File>(std::move(file)));
  return opened;
}

TensorFolder TensorFolder::of_shards(const fs::path& folder) {
  TensorFolder opened;
  opened.folder_ = folder;
  const auto map = read_index(folder);
  const auto names = shard_names(map);
  for (const auto& name : names) require_inside(folder, name);
  for (const auto& name : names) {
    opened.shards_.push_back(
        std::make_shared<SafetensorsFile>(SafetensorsFile::open(folder / name)));
  }
  for (const auto& [name, file] : map) {
    opened.shard_of_[name] = std::lower_bound(names.begin(), names.end(), file) - names.begin();
  }
  check_index(map, opened.shards_, opened.shard_of_, folder);
  opened.files_ = {names.begin(), names.end()};
  opened.files_.insert(kIndexFile);
  return opened;
}

std::vector<std::string> TensorFolder::unread_files() const {
  auto unread = files_ending_in(folder_, {".safetensors"});
  for (const auto& name : files_) unread.erase(name);
  return {unread.begin(), unread.end()};
}

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, shard] : shard_of_) names.push_back(name);
  return names;
}

const TensorFile& TensorFolder::shard(const std::string& name) const {
  const auto found = shard_of_.find(name);
  if (found != shard_of_.end()) return *shards_[found->second];
  throw Error(folder_.string(), "has no tensor " + name, "Check that the folder is complete.");
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
