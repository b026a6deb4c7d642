#include "trainers/train_state.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <nlohmann/json.hpp>

#include "framework/error.h"
#include "framework/hdf5_file.h"
#include "framework/json.h"
#include "models/hf_checkpoint.h"

namespace regroup {
namespace {

constexpr int64_t kFormatVersion = 1;

std::string state_path(size_t block, const char* name) {
  return c10::str("/blocks/", block, "/", name);
}

void check_identity(const std::filesystem::path& file, const RunIdentity& saved,
                    const RunIdentity& present) {
  Complaints complaints;
  for (const auto& [key, value] : present) {
    const auto found = saved.find(key);
    const auto before = found == saved.end() ? std::string("not there") : found->second;
    if (before != value)
      complaints.add(c10::str(key, " is ", value, ", the checkpoint was trained with ", before));
  }
  complaints.throw_if_any(file.string(),
                          "Resume with the same model, data and optimizer, or start a new run.",
                          ExitCode::kBadRequest);
}

RunIdentity read_identity(const Hdf5File& file) {
  const auto text = file.string_attribute("/", "identity");
  RunIdentity identity;
  if (!text) throw Error(file.where(), "has no attribute identity", "The file is damaged.");
  const JsonObject json(parse_json(*text, file.where()), file.where());
  for (const auto& key : json.keys()) identity[key] = json.string(key);
  return identity;
}

int64_t counter(const Hdf5File& file, const char* name) {
  const auto value = file.integer_attribute("/", name);
  if (!value || *value < 0)
    throw Error(file.where(), c10::str("has no sound attribute ", name), "The file is damaged.");
  return *value;
}

void read_into(const Hdf5File& file, const std::string& name, const torch::Tensor& target) {
  const auto dataset = file.dataset(name);
  if (dataset.shape() != target.sizes().vec() || dataset.dtype() != target.scalar_type()) {
    throw Error(file.where(),
                c10::str(name, " has shape ", torch::IntArrayRef(dataset.shape()), ", expected ",
                         target.sizes(), " ", target.scalar_type()),
                "The file is damaged, or belongs to another model.");
  }
  target.copy_(dataset.read());
}

}  // namespace

void save_train_state(const std::filesystem::path& folder, const TrainState& state,
                      const RunIdentity& identity, const Decoder& model, AdamW& optimizer) {
  auto file = Hdf5File::create(folder / "training_state.h5");
  file.set_attribute("/", "format_version", kFormatVersion);
  file.set_attribute("/", "identity", nlohmann::json(identity).dump());
  file.set_attribute("/", "step", state.step);
  file.set_attribute("/", "tokens", state.tokens);
  file.set_attribute("/", "skipped_steps", state.skipped_steps);
  file.set_attribute("/", "skipped_in_a_row", state.skipped_in_a_row);
  file.set_attribute("/", "optimizer_steps", optimizer.steps());
  const bool has_masters = model.options().dtype() != torch::kFloat32;
  for (size_t i = 0; i < optimizer.state().size(); ++i) {
    const auto& block = optimizer.state()[i];
    file.write(state_path(i, "first_moment"), block.first_moment);
    file.write(state_path(i, "second_moment"), block.second_moment);
    if (has_masters) file.write(state_path(i, "master"), block.master);
  }
  file.close();
}

TrainState load_train_state(const std::filesystem::path& folder, const RunIdentity& identity,
                            Decoder& model, AdamW& optimizer) {
  const torch::NoGradGuard no_grad;
  const auto file = Hdf5File::open(folder / "training_state.h5");
  if (counter(file, "format_version") != kFormatVersion) {
    throw Error(file.where(), "is of another format version",
                "Resume with the version of Regroup that wrote it.");
  }
  check_identity(folder, read_identity(file), identity);
  const auto weights = ModelFolder::open(folder);
  const bool has_masters = model.options().dtype() != torch::kFloat32;
  for (size_t i = 0; i < model.blocks().size(); ++i) {
    auto& block = model.blocks()[i];
    for (size_t p = 0; p < block.parameters().size(); ++p) {
      block.parameter(p).copy_(weights.parameter(block.parameters()[p].name));
    }
    auto& state = optimizer.state()[i];
    read_into(file, state_path(i, "first_moment"), state.first_moment);
    read_into(file, state_path(i, "second_moment"), state.second_moment);
    if (has_masters) read_into(file, state_path(i, "master"), state.master);
  }
  optimizer.set_steps(counter(file, "optimizer_steps"));
  return {counter(file, "step"), counter(file, "tokens"), counter(file, "skipped_steps"),
          counter(file, "skipped_in_a_row")};
}

}  // namespace regroup
