#include "framework/data/token_data.h"

#include <ATen/ATen.h>

#include <functional>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/token_files.h"

namespace regroup {
namespace {

using testing::TempFolder;
using testing::TokenFile;

at::Tensor ids(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

at::Tensor offsets_of(const std::vector<int64_t>& values) { return ids(values).view(at::kUInt64); }

TEST_CASE("token data have attributes and splits", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.splits["train"] = {ids({5, 6, 0, 7, 0}), {0, 3, 5}, 11};
  contents.splits["val"] = {ids({8, 9, 0}), {0, 3}, std::nullopt};
  const auto data = TokenData::open(contents.write(folder / "d.h5"));
  CHECK(data.vocab_size() == 10);
  CHECK(data.eos_id() == 0);
  CHECK(data.tokenizer() == "{}");
  CHECK(data.source() == "a test");
  CHECK_FALSE(data.has_choices());
  CHECK(data.splits().size() == 2);
  const auto& train = data.split("train");
  CHECK(train.n_tokens() == 5);
  CHECK(train.n_documents() == 2);
  CHECK(train.bytes() == 11);
  CHECK_FALSE(data.split("val").bytes().has_value());
  CHECK_THAT(train.offsets(), AllClose(ids({0, 3, 5})));
  CHECK_THAT(train.read(1, 3), AllClose(ids({6, 0, 7})));
  CHECK(train.max_id() == 7);
}

TEST_CASE("tokens of 32 bits beyond those of 16 are read", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.vocab_size = 100'000;
  contents.token_dtype = at::kUInt32;
  contents.splits["train"] = {ids({99'999, 70'000, 0}), {0, 3}, 1};
  const auto data = TokenData::open(contents.write(folder / "d.h5"));
  CHECK_THAT(data.split("train").read(0, 3), AllClose(ids({99'999, 70'000, 0})));
}

TEST_CASE("a split that is missing names the ones that are there", "[data]") {
  const TempFolder folder;
  const auto data = TokenData::open(TokenFile().write(folder / "d.h5"));
  CHECK_THROWS_WITH(data.split("val"), Contains("has no split val") && Contains("It has train."));
}

TEST_CASE("token ids and vocabularies beyond the model's are refused", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.splits["train"] = {ids({5, 12, 0}), {0, 3}, 1};
  const auto data = TokenData::open(contents.write(folder / "d.h5"));
  const auto& train = data.split("train");
  CHECK_THROWS_WITH(data.check_vocabulary(train, 9),
                    Contains("vocab_size (10)") && Contains("model's (9)"));
  CHECK_THROWS_WITH(data.check_vocabulary(train, 12),
                    Contains("/train: holds the token id 12") && Contains("end at 11"));
  CHECK_NOTHROW(data.check_vocabulary(train, 13));
}

TEST_CASE("the fingerprint of a split depends on every id and every offset", "[data]") {
  const TempFolder folder;
  const auto fingerprint = [&](const std::vector<int64_t>& tokens,
                               const std::vector<int64_t>& offsets) {
    TokenFile contents;
    contents.splits["train"] = {ids(tokens), offsets, 1};
    return TokenData::open(contents.write(folder / "d.h5")).split("train").fingerprint();
  };
  const auto reference = fingerprint({5, 6, 0, 7, 0}, {0, 3, 5});
  CHECK(reference.size() == 16);
  CHECK(fingerprint({5, 6, 0, 7, 0}, {0, 3, 5}) == reference);
  CHECK(fingerprint({6, 5, 0, 7, 0}, {0, 3, 5}) != reference);
  CHECK(fingerprint({5, 6, 0, 7, 1}, {0, 3, 5}) != reference);
  CHECK(fingerprint({5, 6, 0, 7, 0}, {0, 2, 5}) != reference);
  CHECK(fingerprint({5, 6, 0, 7, 0, 0}, {0, 3, 6}) != reference);
}

/// Opens token data after `alter` has changed them.
TokenData open_altered(const TempFolder& folder, const TokenFile& contents,
                       const std::function<void(Hdf5File&)>& alter) {
  return TokenData::open(contents.write(folder / "d.h5", alter));
}

TEST_CASE("token data of another format version are refused with both versions", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.format_version = 2;
  CHECK_THROWS_WITH(TokenData::open(contents.write(folder / "d.h5")),
                    Contains("format_version is 2") && Contains("reads 1"));
}

TEST_CASE("token data without an attribute or with a bad one name it", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.vocab_size = std::nullopt;
  CHECK_THROWS_WITH(TokenData::open(contents.write(folder / "d.h5")),
                    Contains("d.h5: has no attribute vocab_size"));
  contents.vocab_size = 0;
  CHECK_THROWS_WITH(TokenData::open(contents.write(folder / "d.h5")),
                    Contains("attribute vocab_size is 0"));
  contents.vocab_size = 10;
  contents.eos_id = 10;
  CHECK_THROWS_WITH(TokenData::open(contents.write(folder / "d.h5")),
                    Contains("attribute eos_id is 10, expected 0 to 9"));
}

TEST_CASE("token data with an empty split are refused", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.splits["val"] = {ids({}), {0}, 0};
  CHECK_THROWS_WITH(TokenData::open(contents.write(folder / "d.h5")),
                    Contains("/val: is empty: it has 0 tokens"));
}

TEST_CASE("token data without a split are refused", "[data]") {
  const TempFolder folder;
  TokenFile contents;
  contents.splits.clear();
  CHECK_THROWS_WITH(TokenData::open(contents.write(folder / "d.h5")), Contains("has no split"));
}

TEST_CASE("tokens of a wrong type or shape are refused with type and shape", "[data]") {
  const TempFolder folder;
  const auto tokens = GENERATE(at::zeros({4}, at::kFloat), at::zeros({4}, at::kLong),
                               at::zeros({2, 2}, at::kInt).to(at::kUInt16));
  CHECK_THROWS_WITH(open_altered(folder, TokenFile(),
                                 [&](Hdf5File& file) {
                                   file.write("/val/tokens", tokens);
                                   file.write("/val/offsets", offsets_of({0, 4}));
                                 }),
                    Contains("/val: tokens are") && Contains("expected uint16 or uint32"));
}

TEST_CASE("offsets that do not cut a split into documents are refused with the numbers", "[data]") {
  const TempFolder folder;
  const auto open_with = [&](const std::vector<int64_t>& offsets) {
    TokenFile contents;
    contents.splits["val"] = {ids({1, 2, 3, 0}), offsets, 1};
    return TokenData::open(contents.write(folder / "d.h5"));
  };
  CHECK_NOTHROW(open_with({0, 2, 2, 4}));
  CHECK_THROWS_WITH(open_with({0, 3}), Contains("/val: offsets end at 3, but there are 4 tokens"));
  CHECK_THROWS_WITH(open_with({0, 5}), Contains("offsets end at 5"));
  CHECK_THROWS_WITH(open_with({1, 4}), Contains("offsets begin at 1, expected 0"));
  CHECK_THROWS_WITH(open_with({0, 3, 2, 4}), Contains("offsets fall from 3 to 2 at entry 2"));
  CHECK_THROWS_WITH(open_with({0, -1, 4}), Contains("fall from 0 to -1"));
  CHECK_THROWS_WITH(open_with({0}), Contains("offsets have 1 entries"));
}

TEST_CASE("offsets of a wrong type are refused and missing ones are named", "[data]") {
  const TempFolder folder;
  const auto tokens = at::zeros({4}, at::kInt).to(at::kUInt16);
  CHECK_THROWS_WITH(open_altered(folder, TokenFile(),
                                 [&](Hdf5File& file) {
                                   file.write("/val/tokens", tokens);
                                   file.write("/val/offsets", ids({0, 4}));
                                 }),
                    Contains("offsets are int64 [2], expected uint64 on 1 axis"));
  CHECK_THROWS_WITH(
      open_altered(folder, TokenFile(), [&](Hdf5File& file) { file.write("/val/tokens", tokens); }),
      Contains("has no /val/offsets"));
}

/// Two questions of three options: contexts [1 2 3] and [4 5], options of 2 tokens each.
void add_choices(Hdf5File& file, const std::vector<int64_t>& context_offsets,
                 const std::vector<int64_t>& option_offsets, const std::vector<int64_t>& gold,
                 int64_t n_options = 3) {
  file.write("/choices/tokens", at::arange(1, 18, at::kInt).to(at::kUInt16));
  file.write("/choices/context_offsets", offsets_of(context_offsets));
  file.write("/choices/option_offsets", ids(option_offsets).reshape({2, -1}).view(at::kUInt64));
  file.write("/choices/gold", ids(gold));
  file.set_attribute("/choices", "n_options", n_options);
}

const std::vector<int64_t> kContexts = {0, 3, 5};
const std::vector<int64_t> kOptions = {5, 7, 9, 11, 11, 13, 15, 17};

TEST_CASE("choice questions give contexts and options and the right one", "[data]") {
  const TempFolder folder;
  const auto path = TokenFile().write(folder / "d.h5", [](Hdf5File& file) {
    add_choices(file, kContexts, kOptions, {2, 0});
  });
  CHECK(TokenData::open(path).has_choices());
  const auto choices = Choices::open(path);
  REQUIRE(choices.size() == 2);
  CHECK(choices.n_options() == 3);
  const auto second = choices[1];
  CHECK_THAT(second.context, AllClose(ids({4, 5})));
  CHECK_THAT(second.options.at(1), AllClose(ids({14, 15})));
  CHECK(second.gold == 0);
  CHECK_THAT(choices[0].options.at(2), AllClose(ids({10, 11})));
  CHECK(choices[0].gold == 2);
  CHECK_NOTHROW(choices.check_fit(18, 64));
  CHECK_THROWS_WITH(choices.check_fit(17, 64), Contains("/choices: holds the token id 17"));
}

TEST_CASE("malformed choice questions are refused with their numbers", "[data]") {
  const TempFolder folder;
  const auto open_with = [&](const std::vector<int64_t>& contexts,
                             const std::vector<int64_t>& options, const std::vector<int64_t>& gold,
                             int64_t n_options = 3) {
    return Choices::open(TokenFile().write(folder / "d.h5", [&](Hdf5File& file) {
      add_choices(file, contexts, options, gold, n_options);
    }));
  };
  CHECK_THROWS_WITH(open_with(kContexts, kOptions, {3, 0}),
                    Contains("gold of question 0 is 3, expected 0 to 2"));
  CHECK_THROWS_WITH(open_with(kContexts, kOptions, {0, -1}), Contains("gold of question 1 is -1"));
  CHECK_THROWS_WITH(open_with({0, 3}, kOptions, {0, 0}),
                    Contains("context_offsets 2 (expected 3)"));
  CHECK_THROWS_WITH(open_with({0, 3, 3}, kOptions, {0, 0}),
                    Contains("the context of question 1 is tokens [3, 3)"));
  CHECK_THROWS_WITH(open_with(kContexts, {5, 7, 9, 11, 11, 13, 15, 18}, {0, 0}),
                    Contains("option 2 of question 1 is tokens [15, 18) of 17"));
  CHECK_THROWS_WITH(open_with(kContexts, {5, 7, 9, -1, 11, 13, 15, 17}, {0, 0}),
                    Contains("option 2 of question 0 is tokens [9, -1)"));
  CHECK_THROWS_WITH(open_with(kContexts, kOptions, {0, 0}, 4),
                    Contains("n_options is 4, but option_offsets hold 3"));
}

TEST_CASE("a file without choice questions says how to make them", "[data]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(Choices::open(TokenFile().write(folder / "d.h5")),
                    Contains("has no questions") && Contains("--choices"));
}

TEST_CASE("token data that are not an HDF5 file, or are cut short, are refused", "[data]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(TokenData::open(folder.write("text.h5", "not hdf5")),
                    Contains("text.h5: is not an HDF5 file"));
  const auto whole = testing::contents_of(TokenFile().write(folder / "d.h5"));
  CHECK_THROWS_WITH(TokenData::open(folder.write("cut.h5", whole.substr(0, whole.size() / 2))),
                    Contains("cut.h5") && Contains("truncated"));
}

}  // namespace
}  // namespace regroup
