#include "trainers/checkpoint.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "framework/error.h"
#include "framework/hash.h"
#include "framework/hdf5_file.h"
#include "framework/json.h"
#include "models/hf_checkpoint.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

constexpr int64_t kFormatVersion = 2;
constexpr const char* kChecksums = "checksums.json";
constexpr const char* kAlone = "training_state.h5";
constexpr const char* kPattern = "training_state_%05d_of_%05d.h5";

std::string state_file(int rank, int size) {
  if (size == 1) return kAlone;
  char name[64];
  std::snprintf(name, sizeof name, kPattern, rank, size);
  return name;
}

std::string state_path(size_t block, const char* name) {
  return c10::str("/blocks/", block, "/", name);
}

struct StateTensor {
  const char* name;
  Tensor AdamWState::*tensor;
};
/// What a state file holds of a block.
std::vector<StateTensor> state_tensors(bool has_masters) {
  std::vector<StateTensor> tensors{{"first_moment", &AdamWState::first_moment},
                                   {"second_moment", &AdamWState::second_moment}};
  if (has_masters) tensors.push_back({"master", &AdamWState::master});
  return tensors;
}

bool has_masters(const Decoder& model) { return model.options().dtype() != torch::kFloat32; }

/// Replicas hold the same: each writes one of as many stretches of what it holds.
Range stretch_of(const FlatParameters& block) {
  const auto held = block.range();
  const auto [replica, n_replicas] = block.replica();
  return {held.begin + held.size() * replica / n_replicas,
          held.begin + held.size() * (replica + 1) / n_replicas};
}

void check_identity(const fs::path& file, const RunIdentity& saved, const RunIdentity& present) {
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

int64_t counter(const Hdf5File& file, const std::string& object, const char* name) {
  const auto value = file.integer_attribute(object, name);
  if (!value || *value < 0)
    throw Error(file.where(), c10::str("has no sound attribute ", name), "The file is damaged.");
  return *value;
}

std::string checksum_of(const fs::path& file) {
  std::ifstream bytes(file, std::ios::binary);
  std::vector<char> piece(size_t{4} << 20);  // the same everywhere: the hash depends on it
  Hash hash;
  while (bytes.read(piece.data(), static_cast<std::streamsize>(piece.size())) || bytes.gcount() > 0)
    hash.add(piece.data(), static_cast<size_t>(bytes.gcount()));
  if (!bytes.eof())
    throw Error(file.string(), "cannot be read", "Check the path and its permissions.");
  return hash.digits();
}

/// Each process checks some of the files.
void check_checksums(const fs::path& folder, const World& world) {
  const auto sums = JsonObject::from_file(folder / kChecksums);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = entry.path().filename();
    if (name != kChecksums && !sums.has(name.string()))
      throw Error(sums.where(), "does not list " + name.string(), "The checkpoint is damaged.");
  }
  int64_t next = 0;
  for (const auto& name : sums.keys()) {
    if (next++ % world.size() != world.rank()) continue;
    if (fs::path(name).filename() != name)
      throw Error(sums.where(), "names " + name + ", which is no file of the folder",
                  "The checkpoint is damaged.");
    if (checksum_of(folder / name) == sums.string(name)) continue;
    throw Error((folder / name).string(), "is not as it was written: its checksum differs",
                "The file is damaged; --resume=auto takes the checkpoint before.");
  }
}

/// The state files of the processes that wrote a checkpoint, which together hold all of it.
std::vector<Hdf5File> open_states(const fs::path& folder) {
  std::vector<Hdf5File> files;
  if (fs::exists(folder / kAlone)) {
    files.push_back(Hdf5File::open(folder / kAlone));
    return files;
  }
  int rank = 0, size = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = entry.path().filename().string();
    if (std::sscanf(name.c_str(), kPattern, &rank, &size) == 2) break;
  }
  if (size < 1) {
    throw Error(folder.string(), c10::str("has no ", kAlone),
                "It is a model, but no checkpoint that training can go on from.");
  }
  for (rank = 0; rank < size; ++rank)
    files.push_back(Hdf5File::open(folder / state_file(rank, size)));
  return files;
}

/// Fills `target`, elements [range.begin, range.end) of a block, from the stretches in the files.
void read_stretches(const std::vector<Hdf5File>& files, const std::string& name, const Range& range,
                    const Tensor& target) {
  std::map<int64_t, Hdf5Dataset> stretches;  // by their first element
  for (const auto& file : files) {
    auto dataset = file.dataset(name);
    if (dataset.shape().size() != 1 || dataset.dtype() != target.scalar_type()) {
      throw Error(file.where(), c10::str(name, " is no row of ", target.scalar_type()),
                  "The file is damaged, or belongs to another model.");
    }
    if (dataset.shape()[0] > 0) stretches.emplace(counter(file, name, "begin"), std::move(dataset));
  }
  int64_t next = range.begin;
  for (const auto& [first, dataset] : stretches) {
    if (next == range.end || first > next) break;
    const int64_t count = std::min(range.end - next, dataset.shape()[0] - (next - first));
    if (count <= 0) continue;
    target.narrow(0, next - range.begin, count).copy_(dataset.read_rows(next - first, count));
    next += count;
  }
  if (next == range.end) return;
  throw Error(files.front().where(),
              c10::str(name, " of all processes' files together lacks element ", next),
              "A file is damaged, or belongs to another model.");
}

TrainState read_checkpoint(const fs::path& folder, const RunIdentity& identity, Decoder& model,
                           AdamW& optimizer, const World& world) {
  const torch::NoGradGuard no_grad;
  const auto files = open_states(folder);
  const auto& first = files.front();
  if (counter(first, "/", "format_version") != kFormatVersion) {
    throw Error(first.where(), "is of another format version",
                "Resume with the version of Regroup that wrote it.");
  }
  check_identity(folder, read_identity(first), identity);
  check_checksums(folder, world);
  load_weights(ModelFolder::open(folder), model);
  for (size_t i = 0; i < model.blocks().size(); ++i) {
    for (const auto& [name, tensor] : state_tensors(has_masters(model)))
      read_stretches(files, state_path(i, name), model.blocks()[i].range(),
                     optimizer.state()[i].*tensor);
  }
  optimizer.set_steps(counter(first, "/", "optimizer_steps"));
  return {counter(first, "/", "step"), counter(first, "/", "tokens"),
          counter(first, "/", "skipped_steps"), counter(first, "/", "skipped_in_a_row")};
}

}  // namespace

void Snapshot::reserve(const Decoder& model, AdamW& optimizer) {
  has_masters_ = has_masters(model);
  weights_.reserve(model);
  stretches_.resize(model.blocks().size());
  for (size_t i = 0; i < stretches_.size(); ++i) {
    const auto range = stretch_of(model.blocks()[i]);
    stretches_[i].begin = range.begin;
    for (const auto& [name, tensor] : state_tensors(has_masters_)) {
      auto& copy = stretches_[i].values.*tensor;
      const auto& held = optimizer.state()[i].*tensor;
      if (!copy.defined()) copy = torch::zeros({range.size()}, held.options().device(torch::kCPU));
    }
  }
}

void Snapshot::take(const TrainState& state, Decoder& model, AdamW& optimizer) {
  const torch::NoGradGuard no_grad;
  reserve(model, optimizer);
  state_ = state;
  optimizer_steps_ = optimizer.steps();
  weights_.take(model);
  for (size_t i = 0; i < stretches_.size(); ++i) {
    const auto& block = model.blocks()[i];
    const auto range = stretch_of(block);
    for (const auto& [name, tensor] : state_tensors(has_masters_)) {
      const auto& held = optimizer.state()[i].*tensor;
      (stretches_[i].values.*tensor)
          .copy_(held.narrow(0, range.begin - block.range().begin, range.size()));
    }
  }
}

std::vector<std::string> Snapshot::write(const fs::path& folder,
                                         const ModelDescription& description,
                                         const RunIdentity& identity) const {
  auto files = write_model(folder, description, weights_.sources(), kDefaultShardBytes, rank_);
  files.push_back(state_file(rank_, size_));
  auto file = Hdf5File::create(folder / files.back());
  file.set_attribute("/", "format_version", kFormatVersion);
  file.set_attribute("/", "identity", nlohmann::json(identity).dump());
  file.set_attribute("/", "step", state_.step);
  file.set_attribute("/", "tokens", state_.tokens);
  file.set_attribute("/", "skipped_steps", state_.skipped_steps);
  file.set_attribute("/", "skipped_in_a_row", state_.skipped_in_a_row);
  file.set_attribute("/", "optimizer_steps", optimizer_steps_);
  for (size_t i = 0; i < stretches_.size(); ++i) {
    for (const auto& [name, tensor] : state_tensors(has_masters_)) {
      const auto path = state_path(i, name);
      file.write(path, stretches_[i].values.*tensor);
      file.set_attribute(path, "begin", stretches_[i].begin);
    }
  }
  file.close();
  return files;
}

std::string checksum_lines(const fs::path& folder, const std::vector<std::string>& files) {
  std::string lines;
  for (const auto& file : files) lines += file + " " + checksum_of(folder / file) + "\n";
  return lines;
}

void write_checksums(const fs::path& folder, const std::vector<std::string>& lines) {
  nlohmann::ordered_json sums;
  for (const auto& of_process : lines) {
    std::istringstream text(of_process);
    for (std::string file, sum; text >> file >> sum;) {
      if (!fs::exists(folder / file)) {
        throw Error((folder / file).string(), "was written by another process, but is not here",
                    "The run's folder must lie on a file system that all nodes share.");
      }
      sums[file] = sum;
    }
  }
  for (const auto& entry : fs::directory_iterator(folder)) {  // config.json and its like
    const auto file = entry.path().filename().string();
    if (!sums.contains(file)) sums[file] = checksum_of(entry.path());
  }
  write_json_file(folder / kChecksums, sums);
}

TrainState load_checkpoint(const fs::path& folder, const RunIdentity& identity, Decoder& model,
                           AdamW& optimizer, World& world) {
  TrainState state;
  world.together([&] { state = read_checkpoint(folder, identity, model, optimizer, world); });
  return state;
}

}  // namespace regroup
