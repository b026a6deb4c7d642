#include "models/token_meaning.h"

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

using nlohmann::json;

json bpe_tokenizer() {
  return {{"version", "1.0"},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", nullptr},
          {"added_tokens",
           {{{"id", 0}, {"content", "</s>"}, {"special", true}},
            {{"id", 4}, {"content", "<x>"}, {"special", false}}}},
          {"model",
           {{"type", "BPE"}, {"vocab", {{"a", 1}, {"b", 2}, {"ab", 3}}}, {"merges", {"a b"}}}}};
}

std::string difference(const json& a, const json& b) {
  return tokenizer_difference(a.dump(), "a.json", b.dump(), "b.json");
}

TEST_CASE("tokenizers differ in the first part that changes an id", "[tokenizer]") {
  auto other = bpe_tokenizer();
  SECTION("normalizer") {
    other["normalizer"] = {{"type", "NFC"}};
    CHECK(difference(bpe_tokenizer(), other) == "normalizer");
  }
  SECTION("added tokens") {
    other["added_tokens"][1]["id"] = 5;
    CHECK(difference(bpe_tokenizer(), other) == "added_tokens");
  }
  SECTION("pre-tokenizer") {
    other["pre_tokenizer"]["add_prefix_space"] = true;
    CHECK(difference(bpe_tokenizer(), other) == "pre_tokenizer");
  }
  SECTION("vocabulary") {
    other["model"]["vocab"]["b"] = 5;
    CHECK(difference(bpe_tokenizer(), other) == "model.vocab");
  }
  SECTION("merges") {
    other["model"]["merges"] = {"b a"};
    CHECK(difference(bpe_tokenizer(), other) == "model.merges");
  }
}

TEST_CASE("what changes no id is no difference between tokenizers", "[tokenizer]") {
  auto other = bpe_tokenizer();
  SECTION("what acts after the split into ids") {
    other["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", true}};
    other["decoder"] = {{"type", "ByteLevel"}};
    other["truncation"] = {{"max_length", 5}};
  }
  SECTION("merges as pairs") { other["model"]["merges"] = json::array({json::array({"a", "b"})}); }
  SECTION("defaults that newer versions write") {
    other["model"]["dropout"] = nullptr;
    other["model"]["byte_fallback"] = false;
    other["pre_tokenizer"]["use_regex"] = true;
  }
  SECTION("the order of the added tokens, and which of them are special") {
    std::swap(other["added_tokens"][0], other["added_tokens"][1]);
    other["added_tokens"][0]["special"] = true;
  }
  CHECK(difference(bpe_tokenizer(), other).empty());
}

TEST_CASE("a tokenizer that is not JSON is an error that names it", "[tokenizer]") {
  CHECK_THROWS_WITH(tokenizer_difference(bpe_tokenizer().dump(), "a.json", "{", "b.json"),
                    Contains("b.json"));
}

}  // namespace
}  // namespace regroup
