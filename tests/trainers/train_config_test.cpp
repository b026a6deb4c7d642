#include "trainers/train_config.h"

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

std::string refusal(const TrainConfig& config, int64_t data_vocab_size = 50) {
  try {
    decoder_config(config, data_vocab_size);
  } catch (const Error& error) {
    CHECK(error.exit_code() == ExitCode::kBadRequest);
    return error.what();
  }
  return "";
}

TEST_CASE("what [model] leaves open follows from what it says", "[train_config]") {
  TrainConfig config;
  config.model.d_model = 96;
  config.model.n_head = 6;
  config.model.n_layer = 3;
  const auto model = decoder_config(config, /*data_vocab_size=*/50);
  CHECK(model.layer(2).attention.head_dim == 16);
  CHECK(model.layer(2).mlp.d_ff == 256);  // 8/3 of 96
  CHECK(model.vocab_size == 50);
  CHECK(model.n_kv_head() == std::vector<int64_t>{6, 6, 6});
  config.model.n_kv_head = {2};
  CHECK(decoder_config(config, 50).n_kv_head() == std::vector<int64_t>{2, 2, 2});
  config.model.n_kv_head = {6, 3, 1};
  config.model.vocab_size = 64;
  CHECK(decoder_config(config, 50).n_kv_head() == std::vector<int64_t>{6, 3, 1});
  CHECK(decoder_config(config, 50).vocab_size == 64);
}

TEST_CASE("the output head is tied where the key or else the family says so", "[train_config]") {
  TrainConfig config;
  const auto is_tied = [&] { return decoder_config(config, 50).head.tied; };
  CHECK_FALSE(is_tied());
  config.model.tie_embeddings = true;
  CHECK(is_tied());
  config.model.family = "gemma";
  config.model.tie_embeddings = std::nullopt;
  CHECK(is_tied());
  config.model.tie_embeddings = false;
  CHECK_FALSE(is_tied());
}

TEST_CASE("everything that is wrong with [model] is said at once", "[train_config]") {
  TrainConfig config;
  config.model.n_head = 7;  // does not divide 256
  config.model.n_kv_head = {2};
  config.model.vocab_size = 40;
  config.model.max_seq_len = 128;
  config.data.seq_len = 256;
  CHECK_THAT(refusal(config), Contains("n_head (7)") && Contains("n_kv_head (2)") &&
                                  Contains("larger than model.vocab_size (40)") &&
                                  Contains("data.seq_len (256)"));
}

TEST_CASE("a step is whole sequences", "[train_config]") {
  TrainConfig config;
  config.data.seq_len = 300;
  config.train.batch_tokens = 1000;
  CHECK(config.sequences_per_step() == 3);
  CHECK(config.tokens_per_step() == 900);
}

}  // namespace
}  // namespace regroup
