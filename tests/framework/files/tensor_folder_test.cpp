#include "framework/files/tensor_folder.h"

#include <ATen/ATen.h>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/files/safetensors.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

constexpr const char* kIndex = "model.safetensors.index.json";

/// Tensors of 40, 8, 24 and 16 bytes.
std::vector<TensorSource> sources() {
  return {tensor_source("embed", at::arange(10, at::kFloat)),
          tensor_source("a.weight", at::full({2}, 0.5, at::kFloat)),
          tensor_source("b.weight", at::arange(6, at::kFloat).reshape({2, 3})),
          tensor_source("head", at::ones({4}, at::kFloat))};
}

std::string index_of(const std::string& entries) { return "{\"weight_map\":{" + entries + "}}"; }

TEST_CASE("a model folder reads back whether it is one file or shards", "[safetensors]") {
  const TempFolder folder;
  const int64_t max_shard_bytes = GENERATE(1, 33, 48, 1000);
  write_tensor_folder(folder.path(), sources(), max_shard_bytes);
  const auto opened = TensorFolder::open(folder.path());
  CHECK(opened.names() == std::vector<std::string>{"a.weight", "b.weight", "embed", "head"});
  for (const auto& source : sources()) {
    CHECK_THAT(opened.tensor(source.name), AllClose(source.load()));
    CHECK(opened.shape(source.name) == source.shape);
    CHECK(opened.dtype(source.name) == source.dtype);
  }
}

TEST_CASE("shards are named and filled as Hugging Face does", "[safetensors]") {
  const TempFolder folder;
  write_tensor_folder(folder.path(), sources(), 48);
  CHECK_FALSE(fs::exists(folder / "model.safetensors"));
  const auto index = JsonObject::from_file(folder / kIndex);
  CHECK(index.object("metadata").integer("total_size") == 88);
  const auto map = index.object("weight_map");
  CHECK(map.string("embed") == "model-00001-of-00002.safetensors");
  CHECK(map.string("a.weight") == "model-00001-of-00002.safetensors");
  CHECK(map.string("b.weight") == "model-00002-of-00002.safetensors");
  CHECK(map.string("head") == "model-00002-of-00002.safetensors");
  CHECK(fs::exists(folder / "model-00002-of-00002.safetensors"));
}

TEST_CASE("tensors that fit one shard are written without an index", "[safetensors]") {
  const TempFolder folder;
  write_tensor_folder(folder.path(), sources(), 88);
  CHECK(fs::exists(folder / "model.safetensors"));
  CHECK_FALSE(fs::exists(folder / kIndex));
}

TEST_CASE("a name that a model folder lacks is an error with the folder and the name",
          "[safetensors]") {
  const TempFolder folder;
  write_tensor_folder(folder.path(), sources(), 88);
  const auto opened = TensorFolder::open(folder.path());
  CHECK_FALSE(opened.contains("lm_head"));
  CHECK_THROWS_WITH(opened.tensor("lm_head"),
                    Contains(folder.path().string()) && Contains("no tensor lm_head"));
}

TEST_CASE("a shard index that leaves its folder is refused", "[safetensors]") {
  const TempFolder folder;
  write_safetensors(folder / "outside.safetensors", {tensor_source("w", at::ones({1}))});
  const auto inner = folder / "model";
  fs::create_directory(inner);
  const std::string name = GENERATE("../outside.safetensors", "/etc/hostname", "..",
                                    "sub/../../outside.safetensors", "x/../../model/../x");
  folder.write(std::string("model/") + kIndex, index_of("\"w\":\"" + name + "\""));
  CHECK_THROWS_WITH(TensorFolder::open(inner),
                    Contains("index.json") && Contains("leads out of the folder"));
}

TEST_CASE("a shard index that names no file is refused", "[safetensors]") {
  const TempFolder folder;
  const std::string name = GENERATE(".", "", "sub/x.safetensors", "a\\\\b");
  folder.write(kIndex, index_of("\"w\":\"" + name + "\""));
  CHECK_THROWS_WITH(
      TensorFolder::open(folder.path()),
      Contains("index.json") && (Contains("is not there") || Contains("is a folder")));
}

TEST_CASE("a link out of the folder is read like the file that it points at", "[safetensors]") {
  const TempFolder folder;
  write_safetensors(folder / "outside.safetensors", {tensor_source("w", at::full({1}, 3.0))});
  fs::create_directory(folder / "model");
  const bool is_single = GENERATE(true, false);
  const std::string name = is_single ? "model.safetensors" : "s.safetensors";
  fs::create_symlink("../outside.safetensors", folder / ("model/" + name));
  if (!is_single) folder.write(std::string("model/") + kIndex, index_of("\"w\":\"s.safetensors\""));
  const auto opened = TensorFolder::open(folder / "model");
  CHECK_THAT(opened.tensor("w"), AllClose(at::full({1}, 3.0)));
  CHECK(opened.files().contains(name));
  fs::remove(folder / "outside.safetensors");
  CHECK_THROWS_AS(TensorFolder::open(folder / "model"), Error);
}

TEST_CASE("safetensors that are not the model's are named", "[safetensors]") {
  const TempFolder folder;
  write_tensor_folder(folder.path(), sources(), 48);
  CHECK(TensorFolder::open(folder.path()).unread_files().empty());
  write_safetensors(folder / "adapter.safetensors", {tensor_source("w", at::ones({1}))});
  CHECK(TensorFolder::open(folder.path()).unread_files() ==
        std::vector<std::string>{"adapter.safetensors"});
}

TEST_CASE("shards of a Hugging Face cache are links to its blobs and are read", "[safetensors]") {
  const TempFolder cache;
  fs::create_directories(cache / "blobs");
  fs::create_directories(cache / "snapshots/revision");
  write_safetensors(cache / "blobs/0123abcd", {tensor_source("w", at::full({3}, 2.0))});
  fs::create_symlink("../../blobs/0123abcd", cache / "snapshots/revision/s.safetensors");
  cache.write(std::string("snapshots/revision/") + kIndex, index_of("\"w\":\"s.safetensors\""));
  const auto opened = TensorFolder::open(cache / "snapshots/revision");
  CHECK_THAT(opened.tensor("w"), AllClose(at::full({3}, 2.0)));
}

TEST_CASE("all differences of index and shards are reported", "[safetensors]") {
  const TempFolder folder;
  write_safetensors(folder / "s1.safetensors",
                    {tensor_source("a", at::ones({1})), tensor_source("extra", at::ones({1}))});
  write_safetensors(folder / "s2.safetensors",
                    {tensor_source("b", at::ones({1})), tensor_source("a", at::ones({1}))});
  folder.write(kIndex,
               index_of(R"("a":"s1.safetensors","b":"s2.safetensors","gone":"s2.safetensors")"));
  CHECK_THROWS_WITH(
      TensorFolder::open(folder.path()),
      Contains("3 problems") && Contains("tensor gone is missing from s2.safetensors") &&
          Contains("tensor extra of s1.safetensors is not in the index") &&
          Contains("tensor a of s2.safetensors stands in the index for another shard"));
}

TEST_CASE("a missing shard is named", "[safetensors]") {
  const TempFolder folder;
  write_tensor_folder(folder.path(), sources(), 48);
  fs::remove(folder / "model-00002-of-00002.safetensors");
  CHECK_THROWS_WITH(TensorFolder::open(folder.path()),
                    Contains("model-00002-of-00002.safetensors") && Contains("is not there"));
}

TEST_CASE("a shard index of the wrong kind is refused", "[safetensors]") {
  const TempFolder folder;
  folder.write(kIndex, "{\"weight_map\":{\"w\":3}}");
  CHECK_THROWS_WITH(TensorFolder::open(folder.path()), Contains("weight_map.w is 3"));
  folder.write(kIndex, "{\"weight_map\":{}}");
  CHECK_THROWS_WITH(TensorFolder::open(folder.path()), Contains("weight_map is empty"));
  folder.write(kIndex, "{}");
  CHECK_THROWS_WITH(TensorFolder::open(folder.path()), Contains("weight_map is missing"));
}

TEST_CASE("a folder of pickles is refused with the reason", "[safetensors]") {
  const TempFolder folder;
  folder.write("pytorch_model.bin", "PK");
  CHECK_THROWS_WITH(TensorFolder::open(folder.path()), Contains("pytorch_model.bin") &&
                                                           Contains("run code") &&
                                                           Contains("safe_serialization=True"));
}

TEST_CASE("a folder without tensors says what was expected", "[safetensors]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(TensorFolder::open(folder.path()), Contains("neither model.safetensors"));
  CHECK_THROWS_WITH(TensorFolder::open(folder / "absent"), Contains("is not a folder"));
}

}  // namespace
}  // namespace regroup
