// A checkpoint whose training_state.h5 the HDF5 library takes and that is wrong in what it says:
// the input is the recipe of that file.
#include "models/families/family.h"
#include "models/model_writer.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/hdf5_recipe.h"
#include "tests/support/tiny_models.h"
#include "trainers/checkpoint.h"

namespace regroup::fuzz {
namespace {

namespace fs = std::filesystem;

const RunIdentity kIdentity{{"train.seed", "0"}};

/// A decoder of a few numbers, with what writes and reads its checkpoints.
struct Trained {
  Trained() : model(config(), torch::kFloat32) {
    model.enable_training(false);
    optimizer.emplace(model.blocks(), AdamWOptions());
  }
  static DecoderConfig config() {
    auto config = testing::tiny_config({1}, 1);
    config.d_model = config.vocab_size = 2;
    auto& attention = config.layers[0].attention;
    attention.head_dim = attention.rotary->dims = 2;
    attention.scores = ScoreRule::plain(2);
    config.layers[0].mlp.d_ff = 1;
    return config;
  }
  Decoder model;
  std::optional<AdamW> optimizer;
};

Hdf5Recipe recipe_for(const Trained& trained) {
  Hdf5Recipe recipe{.integers = {{"/", "format_version", 3},
                                 {"/", "step", 3},
                                 {"/", "tokens", 12},
                                 {"/", "skipped_steps", 0},
                                 {"/", "skipped_in_a_row", 0},
                                 {"/", "optimizer_steps", 3}},
                    .texts = {{"/", "identity", R"({"train.seed": "0"})"}}};
  for (size_t i = 0; i < trained.model.blocks().size(); ++i) {
    for (const char* moment : {"first_moment", "second_moment"}) {
      const auto name = c10::str("/blocks/", i, "/", moment);
      const int64_t size = trained.model.blocks()[i].own().size();
      recipe.datasets.push_back({name, H5T_NATIVE_FLOAT, {size}, std::vector<int64_t>(size, 1)});
      recipe.integers.push_back({name, "begin", 0});
    }
  }
  return recipe;
}

}  // namespace

void read_input(std::string_view input) {
  static Trained trained;
  static const Hdf5Recipe recipe = recipe_for(trained);
  static const auto good_checksums = [&] {
    Snapshot snapshot(0, 1);
    snapshot.take({}, trained.model, *trained.optimizer);
    auto files = snapshot.write(
        input_folder().path(),
        {&families().front(), trained.model.config(), torch::kFloat32, {}, {}}, kIdentity);
    std::erase(files, "training_state.h5");
    return checksum_lines(input_folder().path(), files);
  }();
  recipe.write(input_folder() / "training_state.h5", input);
  fs::remove(input_folder() / "checksums.json");
  write_checksums(input_folder().path(), {good_checksums});
  World alone;
  load_checkpoint(input_folder().path(), kIdentity, trained.model, *trained.optimizer, alone);
}

std::string good_input() { return {}; }

}  // namespace regroup::fuzz
