#include "models/tokenizer_vocabulary.h"

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

using nlohmann::json;

TEST_CASE("tokens are found among the added ones first, then in the model", "[tokenizer]") {
  const auto text = GENERATE(
      R"({"model": {"vocab": {"a": 0, "b": 1, "<s>": 2}}, "added_tokens": [{"id": 7, "content": "<s>"}]})",
      R"({"model": {"vocab": [["a", -1.5], ["b", -2.5], ["<s>", 0]]},
          "added_tokens": [{"id": 7, "content": "<s>"}]})");
  const TokenizerVocabulary vocabulary(json::parse(text));
  CHECK(vocabulary.id_of("b") == 1);
  CHECK(vocabulary.id_of("<s>") == 7);
  CHECK(vocabulary.id_of("c") == std::nullopt);
  CHECK(vocabulary.text_of(1) == "b");
  CHECK(vocabulary.text_of(7) == "<s>");
  CHECK(vocabulary.text_of(-1) == std::nullopt);
  CHECK(vocabulary.text_of(1000) == std::nullopt);
}

TEST_CASE("the token before every text is the post-processor's first special one", "[tokenizer]") {
  const auto first_token = [](const char* processor) {
    return TokenizerVocabulary(json{{"post_processor", json::parse(processor)}}).first_token();
  };
  CHECK(first_token(R"({"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}}]})") == "<s>");
  CHECK(first_token(R"({"processors": [{"type": "ByteLevel"},
                                       {"single": [{"SpecialToken": {"id": "<s>"}}]}]})") == "<s>");
  CHECK(first_token(R"({"single": [{"Sequence": {}}, {"SpecialToken": {"id": "</s>"}}]})") ==
        std::nullopt);
  CHECK(first_token("null") == std::nullopt);
}

TEST_CASE("a tokenizer of any JSON has no tokens rather than an error", "[tokenizer]") {
  const auto text = GENERATE("null", "5", "[1]", R"({"model": 3, "added_tokens": "x"})",
                             R"({"model": {"vocab": [1, null, []]}, "added_tokens": [1, null]})",
                             R"({"post_processor": {"processors": 4, "single": [1]}})");
  const TokenizerVocabulary vocabulary(json::parse(text));
  CHECK(vocabulary.id_of("a") == std::nullopt);
  CHECK(vocabulary.text_of(0) == std::nullopt);
  CHECK(vocabulary.first_token() == std::nullopt);
}

TEST_CASE("a special token is named by its text or by an object with it", "[tokenizer]") {
  CHECK(special_token_text("</s>") == "</s>");
  CHECK(special_token_text(json{{"content", "</s>"}, {"lstrip", false}}) == "</s>");
  CHECK(special_token_text(nullptr) == std::nullopt);
  CHECK(special_token_text(json{{"content", 3}}) == std::nullopt);
}

}  // namespace
}  // namespace regroup
