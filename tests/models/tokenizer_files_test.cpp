#include "models/tokenizer_files.h"

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contents_of;
using testing::TempFolder;

json tokenizer() {
  return {{"added_tokens", {{{"id", 0}, {"content", "<end>"}}, {{"id", 5}, {"content", "<pad>"}}}},
          {"post_processor", nullptr},
          {"model", {{"type", "BPE"}, {"vocab", {{"<end>", 0}, {"a", 1}, {"<start>", 2}}}}}};
}

json before_every_text(const std::string& token) {
  return {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", token}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}};
}

json written(const TempFolder& folder, const char* file) {
  return json::parse(contents_of(folder / file));
}

TEST_CASE("a tokenizer without a start of text has its end for one", "[tokenizer]") {
  const TempFolder folder;
  const auto tokens = write_tokenizer_files(
      folder.path(),
      {.special_tokens = {{"eos_token_id", 0}}, .tokenizer_json = tokenizer().dump()}, 32);
  CHECK(tokens == json{{"bos_token_id", 0}, {"eos_token_id", 0}, {"pad_token_id", nullptr}});
  const auto config = written(folder, "tokenizer_config.json");
  CHECK(config["tokenizer_class"] == "PreTrainedTokenizerFast");
  CHECK(config["eos_token"] == "<end>");
  CHECK(config["bos_token"] == "<end>");
  CHECK(config["model_max_length"] == 32);
  CHECK_FALSE(config.contains("pad_token"));
  CHECK(written(folder, "generation_config.json") ==
        json{{"bos_token_id", 0}, {"eos_token_id", 0}});
}

TEST_CASE("what a tokenizer puts before every text is its bos token", "[tokenizer]") {
  const TempFolder folder;
  auto text = tokenizer();
  text["post_processor"] =
      GENERATE(before_every_text("<start>"),
               json{{"type", "Sequence"},
                    {"processors", {{{"type", "ByteLevel"}}, before_every_text("<start>")}}});
  const auto tokens = write_tokenizer_files(
      folder.path(), {.special_tokens = {{"eos_token_id", 0}}, .tokenizer_json = text.dump()}, 32);
  CHECK(tokens["bos_token_id"] == 2);
  CHECK(written(folder, "tokenizer_config.json")["bos_token"] == "<start>");
}

TEST_CASE("tokens of a unigram model are found by their place", "[tokenizer]") {
  const TempFolder folder;
  json text;
  text["model"]["vocab"] = json::array({json::array({"<unk>", 0}), json::array({"</s>", -1.5})});
  const auto tokens = write_tokenizer_files(
      folder.path(), {.special_tokens = {{"eos_token_id", 1}}, .tokenizer_json = text.dump()}, 32);
  CHECK(tokens["bos_token_id"] == 1);
  CHECK(written(folder, "tokenizer_config.json")["eos_token"] == "</s>");
}

TEST_CASE("a tokenizer of unheard-of shape has no special tokens", "[tokenizer]") {
  const TempFolder folder;
  const std::string text =
      GENERATE("{}", "[]", "3", R"({"added_tokens":3,"model":[],"post_processor":[1]})",
               R"({"added_tokens":[{"id":"0"},7],"model":{"vocab":[["a"],[],3]}})",
               R"({"post_processor":{"single":[{"SpecialToken":{"id":4}}],"processors":{"a":1}}})");
  const auto tokens = write_tokenizer_files(
      folder.path(), {.special_tokens = {{"eos_token_id", 9}}, .tokenizer_json = text}, 32);
  CHECK(tokens == json{{"bos_token_id", nullptr}, {"eos_token_id", 9}, {"pad_token_id", nullptr}});
  CHECK_FALSE(written(folder, "tokenizer_config.json").contains("eos_token"));
}

TEST_CASE("a folder's own descriptions travel unchanged and say what config.json lacks",
          "[tokenizer]") {
  const TempFolder source, folder;
  source.write("tokenizer.json", tokenizer().dump());
  const std::string described =
      R"({"bos_token": {"content": "<start>"}, "eos_token": "<end>", "pad_token": null})";
  const std::string file = GENERATE("tokenizer_config.json", "special_tokens_map.json");
  source.write(file, described);
  source.write("generation_config.json", "{\"top_k\": 7}");
  const auto tokens = write_tokenizer_files(
      folder.path(), {.special_tokens = {{"eos_token_id", {0, 1}}}, .folder = source.path()}, 32);
  CHECK(tokens == json{{"bos_token_id", 2}, {"eos_token_id", {0, 1}}, {"pad_token_id", nullptr}});
  CHECK(contents_of(folder / file) == described);
  CHECK(contents_of(folder / "generation_config.json") == "{\"top_k\": 7}");
  CHECK(fs::exists(folder / "tokenizer_config.json") == (file == "tokenizer_config.json"));
}

TEST_CASE("a config.json that says there is no such token is believed", "[tokenizer]") {
  const TempFolder source, folder;
  source.write("tokenizer.json", tokenizer().dump());
  const JsonObject config({{"bos_token_id", nullptr}, {"eos_token_id", 0}, {"pad_token_id", 5}},
                          "config.json");
  const auto tokens = write_tokenizer_files(
      folder.path(), {.special_tokens = special_tokens(config), .folder = source.path()}, 32);
  CHECK(tokens == json{{"bos_token_id", nullptr}, {"eos_token_id", 0}, {"pad_token_id", 5}});
  const auto described = written(folder, "tokenizer_config.json");
  CHECK_FALSE(described.contains("bos_token"));
  CHECK(described["pad_token"] == "<pad>");
}

TEST_CASE("without a tokenizer the special tokens are those of config.json", "[tokenizer]") {
  const TempFolder folder;
  const json given = {{"eos_token_id", 3}};
  CHECK(write_tokenizer_files(folder.path(), {.special_tokens = given}, 32) == given);
  CHECK(written(folder, "generation_config.json") == given);
  CHECK_FALSE(fs::exists(folder / "tokenizer_config.json"));
}

TEST_CASE("tokens that tokenizer.json lacks are found in the files beside it", "[tokenizer]") {
  const TempFolder folder;
  folder.write("tokenizer.json", tokenizer().dump());
  CHECK(tokens_outside_tokenizer(folder.path()).empty());
  const auto [file, text] = GENERATE(table<std::string, std::string>({
      {"tokenizer_config.json", R"({"added_tokens_decoder": {"5": {"content": "<pad>"},
                                                             "6": {"content": "<x>"}}})"},
      {"tokenizer_config.json", R"({"eos_token": "<end>", "pad_token": {"content": "<x>"}})"},
      {"tokenizer_config.json", R"({"add_bos_token": true, "extra_special_tokens": ["<x>"]})"},
      {"tokenizer_config.json", R"({"extra_special_tokens": {"image_token": "<x>"}})"},
      {"special_tokens_map.json", R"({"additional_special_tokens": ["a", "<x>"]})"},
      {"added_tokens.json", R"({"<start>": 2, "<x>": 6})"},
  }));
  folder.write(file, text);
  CHECK(tokens_outside_tokenizer(folder.path()) == std::vector<std::string>{"<x>"});
}

TEST_CASE("files beside a tokenizer may hold any JSON", "[tokenizer]") {
  const TempFolder folder;
  folder.write("tokenizer.json", tokenizer().dump());
  const std::string text = GENERATE("null", "3", "[]", R"({"eos_token": 3, "pad_token": [null]})",
                                    R"({"added_tokens_decoder": {"1": {"content": 4}}})");
  folder.write("tokenizer_config.json", text);
  CHECK(tokens_outside_tokenizer(folder.path()).empty());
}

TEST_CASE("a tokenizer that is no JSON is refused by name", "[tokenizer]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(write_tokenizer_files(folder.path(), {.tokenizer_json = "{"}, 32),
                    Contains("tokenizer.json"));
}

}  // namespace
}  // namespace regroup
