#include "trainers/checkpoint.h"

#include <hdf5.h>

#include "framework/errors/error.h"
#include "models/families/family.h"
#include "models/model_writer.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_models.h"

namespace regroup {
namespace {

using namespace testing;

const RunIdentity kIdentity{{"train.seed", "0"}};

/// A decoder that has been trained for a step.
struct Trained {
  explicit Trained(torch::ScalarType dtype, uint64_t seed = 7)
      : model(tiny_decoder(tiny_config(), dtype, seed)) {
    model.enable_training(false);
    optimizer.emplace(model.blocks(), AdamWOptions());
    step();
  }
  void step() {
    model.zero_gradients();
    model.loss(torch::arange(12, torch::kInt64).view({2, 6}), 0.1).backward();
    optimizer->step(1e-2, 1.0);
  }
  std::vector<torch::Tensor> everything() {
    std::vector<torch::Tensor> tensors;
    for (auto& block : model.blocks()) tensors.push_back(block.flat().clone());
    for (auto& state : optimizer->state()) {
      tensors.push_back(state.master.clone());
      tensors.push_back(state.first_moment.clone());
      tensors.push_back(state.second_moment.clone());
    }
    return tensors;
  }

  Decoder model;
  std::optional<AdamW> optimizer;
};

ModelDescription description_of(const Trained& trained) {
  return {&family_named("llama"),
          trained.model.config(),
          trained.model.options().dtype().toScalarType(),
          {},
          {}};
}

void write(const Snapshot& snapshot, const Trained& trained, const std::filesystem::path& folder) {
  const auto files = snapshot.write(folder, description_of(trained), kIdentity);
  write_checksums(folder, {checksum_lines(folder, files)});
}

void check_same(const std::vector<torch::Tensor>& found, const std::vector<torch::Tensor>& wanted) {
  REQUIRE(found.size() == wanted.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK(torch::equal(found[i], wanted[i]));
}

TEST_CASE("a snapshot holds its step, whatever later steps do before it is written",
          "[checkpoint]") {
  const TempFolder folder;
  const auto dtype = GENERATE(torch::kFloat32, torch::kBFloat16);
  Trained trained(dtype);
  Snapshot snapshot(0, 1);
  snapshot.take({.step = 1, .tokens = 12}, trained.model, *trained.optimizer);
  const auto before = trained.everything();
  trained.step();
  write(snapshot, trained, folder.path());

  Trained loaded(dtype, /*seed=*/8);
  World alone;
  const auto state =
      load_checkpoint(folder.path(), kIdentity, loaded.model, *loaded.optimizer, alone);
  CHECK(state.step == 1);
  CHECK(state.tokens == 12);
  CHECK(loaded.optimizer->steps() == 1);
  check_same(loaded.everything(), before);
}

TEST_CASE("a snapshot's memory serves the next one", "[checkpoint]") {
  const TempFolder folder;
  Trained trained(torch::kFloat32);
  Snapshot snapshot(0, 1);
  snapshot.take({.step = 1}, trained.model, *trained.optimizer);
  trained.step();
  snapshot.take({.step = 2}, trained.model, *trained.optimizer);
  write(snapshot, trained, folder.path());
  Trained loaded(torch::kFloat32, /*seed=*/8);
  World alone;
  CHECK(load_checkpoint(folder.path(), kIdentity, loaded.model, *loaded.optimizer, alone).step ==
        2);
  check_same(loaded.everything(), trained.everything());
}

TEST_CASE("a checkpoint in another version's format says which version can resume it",
          "[checkpoint]") {
  const TempFolder folder;
  Trained trained(torch::kFloat32);
  Snapshot snapshot(0, 1);
  snapshot.take({}, trained.model, *trained.optimizer);
  const auto files = snapshot.write(folder.path(), description_of(trained), kIdentity);
  const hid_t file = H5Fopen((folder / "training_state.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t attribute = H5Aopen(file, "format_version", H5P_DEFAULT);
  const int64_t old_version = 2;
  REQUIRE(H5Awrite(attribute, H5T_NATIVE_INT64, &old_version) >= 0);
  H5Aclose(attribute);
  H5Fclose(file);
  write_checksums(folder.path(), {checksum_lines(folder.path(), files)});
  World alone;
  CHECK_THROWS_WITH(
      load_checkpoint(folder.path(), kIdentity, trained.model, *trained.optimizer, alone),
      Contains("has format version 2; this Regroup reads 3") && Contains("start a new run"));
}

TEST_CASE("a checkpoint of another run is a wrong request that says what differs", "[checkpoint]") {
  const TempFolder folder;
  Trained trained(torch::kFloat32);
  Snapshot snapshot(0, 1);
  snapshot.take({}, trained.model, *trained.optimizer);
  write(snapshot, trained, folder.path());
  World alone;
  try {
    load_checkpoint(folder.path(), {{"train.seed", "5"}}, trained.model, *trained.optimizer, alone);
    FAIL("loaded");
  } catch (const Error& error) {
    CHECK(error.exit_code() == ExitCode::kBadRequest);
    CHECK_THAT(error.what(), Contains("train.seed is 5, the checkpoint was trained with 0"));
  }
}

}  // namespace
}  // namespace regroup
