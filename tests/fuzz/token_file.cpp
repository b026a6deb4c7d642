// Token files that the HDF5 library takes and that are wrong in what they say: the input is the
// recipe of one.
#include "framework/data/token_data.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/hdf5_recipe.h"

namespace regroup::fuzz {
namespace {

void read_choices(const std::filesystem::path& file, int64_t vocab_size) {
  const auto choices = Choices::open(file);
  for (int64_t i = 0; i < choices.size(); ++i) choices[i];
  choices.check_fit(vocab_size, 16);
}

void read_token_file(const std::filesystem::path& file) {
  const auto data = TokenData::open(file);
  for (const auto& split : data.splits()) {
    split.n_predicted();
    split.fingerprint();
  }
  if (data.has_choices()) read_choices(file, data.vocab_size());
  for (const auto& split : data.splits()) data.check_vocabulary(split, data.vocab_size());
}

}  // namespace

void read_input(std::string_view input) {
  static const Hdf5Recipe recipe{
      .datasets = {{"/train/tokens", H5T_NATIVE_UINT16, {6}, {1, 2, 0, 3, 4, 0}},
                   {"/train/offsets", H5T_NATIVE_UINT64, {3}, {0, 3, 6}},
                   {"/choices/tokens", H5T_NATIVE_UINT16, {8}, {1, 2, 3, 4, 5, 6, 7, 8}},
                   {"/choices/context_offsets", H5T_NATIVE_UINT64, {3}, {0, 1, 2}},
                   {"/choices/option_offsets", H5T_NATIVE_UINT64, {2, 3}, {2, 3, 4, 4, 6, 8}},
                   {"/choices/gold", H5T_NATIVE_INT64, {2}, {0, 1}}},
      .integers = {{"/", "format_version", 1},
                   {"/", "vocab_size", 10},
                   {"/", "eos_id", 0},
                   {"/train", "bytes", 12},
                   {"/choices", "n_options", 2}},
      .texts = {{"/", "tokenizer", "{}"}, {"/", "source", "a test"}}};
  const auto file = input_folder() / "tokens.h5";
  recipe.write(file, input);
  read_token_file(file);
}

std::string good_input() { return {}; }

}  // namespace regroup::fuzz
