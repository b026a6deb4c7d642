#include "models/companion_files.h"

#include <sys/stat.h>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using testing::contents_of;
using testing::TempFolder;
using Names = std::vector<std::string>;

/// A folder to fill with files, and what copying it does.
class Source {
 public:
  void add(const Names& files) const {
    for (const auto& file : files) {
      fs::create_directories((folder_ / ("from/" + file)).parent_path());
      folder_.write("from/" + file, "contents of " + file);
    }
  }
  fs::path path() const { return folder_ / "from"; }
  Names copy(const std::set<std::string>& replaced = {}) const {
    return copy_companion_files(path(), folder_ / "to", replaced);
  }
  /// All files that were copied, sorted.
  Names copied() const {
    Names names;
    if (!fs::exists(folder_ / "to")) return names;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "to")) {
      if (!entry.is_directory())
        names.push_back(entry.path().lexically_relative(folder_ / "to").string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  TempFolder folder_;
};

TEST_CASE("tokenizer and chat files of any layout travel", "[companions]") {
  const Source source;
  const Names files{"LICENSE",
                    "added_tokens.json",
                    "additional_chat_templates/tool_use.jinja",
                    "chat_template.jinja",
                    "chat_template.json",
                    "generation_config.json",
                    "merges.txt",
                    "preprocessor_config.json",
                    "qwen.tiktoken",
                    "special_tokens_map.json",
                    "spiece.model",
                    "tokenization_own.py",
                    "tokenizer.bin",
                    "tokenizer.json",
                    "tokenizer.model",
                    "tokenizer_config.json",
                    "vocab.json"};
  source.add(files);
  CHECK(source.copy().empty());
  CHECK(source.copied() == files);
}

TEST_CASE("a companion file is copied byte for byte", "[companions]") {
  const Source source;
  source.add({"a/b/tokenizer.json"});
  const TempFolder target;
  copy_companion_files(source.path(), target.path(), {});
  CHECK(contents_of(target / "a/b/tokenizer.json") == "contents of a/b/tokenizer.json");
}

TEST_CASE("weights and what describes them stay behind and are named", "[companions]") {
  const Source source;
  const Names left{
      ".gitattributes",    "README.md",     "adapter_config.json", "checkpoint-500/",
      "diagram.png",       "model.q4.gguf", "modeling_own.py",     "onnx/",
      "original/",         "params.json",   "pytorch_model.bin",   "pytorch_model.bin.index.json",
      "trainer_state.json"};
  for (const auto& name : left)
    if (!name.ends_with('/')) source.add({name});
  source.add({"checkpoint-500/trainer_state.json", "checkpoint-500/tokenizer.json",
              "onnx/config.json", "onnx/tokenizer.json", "original/consolidated.00.pth",
              "original/tokenizer.model"});
  CHECK(source.copy() == left);
  CHECK(source.copied().empty());
}

TEST_CASE("files that the new model has its own of are neither copied nor named", "[companions]") {
  const Source source;
  source.add({"config.json", "model.safetensors", "merges.txt", ".regroup-tmp-x/model.safetensors",
              "checksums.json", "training_state.h5", "training_state_00001_of_00002.h5"});
  CHECK(source.copy({"config.json", "model.safetensors"}).empty());
  CHECK(source.copied() == Names{"merges.txt"});
}

TEST_CASE("a link is the file or the folder that it points at", "[companions]") {
  const Source source;
  source.add({"tokenizer.json"});
  const TempFolder elsewhere;
  elsewhere.write("0123abcd", "vocabulary");
  elsewhere.write("tool.jinja", "template");
  fs::create_symlink(elsewhere / "0123abcd", source.path() / "vocab.txt");
  fs::create_directory_symlink(elsewhere.path(), source.path() / "templates");
  fs::create_symlink("absent", source.path() / "dangling.json");
  fs::create_directory_symlink(".", source.path() / "loop");
  CHECK(source.copy() == Names{"dangling.json", "loop/"});
  CHECK(source.copied() ==
        Names{"templates/0123abcd", "templates/tool.jinja", "tokenizer.json", "vocab.txt"});
}

TEST_CASE("what is no tokenizer by its size or kind stays behind", "[companions]") {
  const Source source;
  source.add({"huge.json", "tokenizer.json"});
  fs::resize_file(source.path() / "huge.json", (uintmax_t{256} << 20) + 1);  // a hole
  REQUIRE(::mkfifo((source.path() / "pipe").c_str(), 0600) == 0);
  for (int i = 0; i <= 1000; ++i) source.add({"many/below/" + std::to_string(i)});
  CHECK(source.copy() == Names{"huge.json", "many/", "pipe"});
  CHECK(source.copied() == Names{"tokenizer.json"});
}

}  // namespace
}  // namespace regroup
