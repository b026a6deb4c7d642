#include "trainers/checkpoint.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "framework/errors/error.h"
#include "framework/files/hash.h"
#include "framework/files/hdf5_file.h"
#include "framework/files/json.h"
#include "models/model_folder.h"
#include "models/model_writer.h"
#include "models/run_layout.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

constexpr int64_t kFormatVersion = 3;  // 3: the identity has a key for each field of the model
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
/// The tensors that a state file holds for a block.
std::vector<StateTensor> state_tensors(bool has_masters) {
  std::vector<StateTensor> tensors{{"first_moment", &AdamWState::first_moment},
                                   {"second_moment", &AdamWState::second_moment}};
  if (has_masters) tensors.push_back({"master", &AdamWState::master});
  return tensors;
}

bool has_masters(const Decoder& model) { return model.options().dtype() != torch::kFloat32; }

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
    throw Error(file.where(), c10::str("attribute ", name, " is missing or negative"),
                "The file is damaged.");
  return *value;
}

std::string checksum_of(const fs::path& file) {
  std::ifstream bytes(file, std::ios::binary);
  constexpr size_t kPieceBytes = size_t{4} << 20;  // the same everywhere: the hash depends on it
  const auto piece = std::make_unique_for_overwrite<char[]>(kPieceBytes);
  Hash hash;
  while (bytes.read(piece.get(), kPieceBytes) || bytes.gcount() > 0)
    hash.add(piece.get(), static_cast<size_t>(bytes.gcount()));
  if (!bytes.eof())
    throw Error(file.string(), "cannot be read", "Check the path and its permissions.");
  return hash.digits();
}

/// The files in a folder and its subfolders (named chat templates have one), as paths in it.
std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) names.push_back(entry.path().lexically_relative(folder).string());
  }
  return names;
}

bool leads_out(const fs::path& name) {
  return name.is_absolute() || std::find(name.begin(), name.end(), "..") != name.end();
}

/// Divides the files over the ranks.
void check_checksums(const fs::path& folder, const World& world) {
  const auto sums = JsonObject::from_file(folder / kChecksums);
  for (const auto& name : files_in(folder)) {
    if (name != kChecksums && !sums.has(name))
      throw Error(sums.where(), "does not list " + name, "The checkpoint is damaged.");
  }
  int64_t next = 0;
  for (const auto& name : sums.keys()) {
    if (next++ % world.size() != world.rank()) continue;
    if (leads_out(name))
      throw Error(sums.where(), "names " + name + ", which is not a file in this folder",
                  "The checkpoint is damaged.");
    if (checksum_of(folder / name) == sums.string(name)) continue;
    throw Error((folder / name).string(), "differs from the file that was written (checksum)",
                "The file is damaged; --resume=auto takes the previous checkpoint.");
  }
}

/// The state files of all ranks that wrote the checkpoint, starting with the file that most likely
/// holds this rank's part.
std::vector<fs::path> state_files(const fs::path& folder, int reading_rank) {
  if (fs::exists(folder / kAlone)) return {folder / kAlone};
  int rank = 0, size = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = entry.path().filename().string();
    if (std::sscanf(name.c_str(), kPattern, &rank, &size) == 2) break;
  }
  if (size < 1) {
    throw Error(folder.string(), c10::str("has no ", kAlone),
                "It is a model folder, not a checkpoint that training can resume from.");
  }
  std::vector<fs::path> files;
  for (int i = 0; i < size; ++i)
    files.push_back(folder / state_file((reading_rank + i) % size, size));
  return files;
}

/// One tensor of this rank, whose parts may come from several files.
class Wanted {
 public:
  /// target: elements [range.begin, range.end) of the block's tensor of this name.
  Wanted(std::string name, const Range& range, Tensor target)
      : name_(std::move(name)), begin_(range.begin), target_(std::move(target)), missing_{range} {
    if (range.size() == 0) missing_.clear();
  }

  bool is_complete() const { return missing_.empty(); }

  /// Reads the parts that are still missing and that the file has.
  void read(const Hdf5File& file) {
    if (is_complete()) return;
    const auto dataset = file.dataset(name_);
    if (dataset.shape().size() != 1 || dataset.dtype() != target_.scalar_type()) {
      throw Error(file.where(), c10::str(name_, " is not a 1-D dataset of ", target_.scalar_type()),
                  "The file is damaged, or belongs to another model.");
    }
    const int64_t first = counter(file, name_, "begin"), size = dataset.shape()[0];
    std::vector<Range> left;
    for (const auto& range : missing_) {
      const int64_t begin = std::max(range.begin, first);
      if (begin >= range.end || begin - first >= size) {
        left.push_back(range);
        continue;
      }
      const int64_t end = begin + std::min(range.end - begin, size - (begin - first));
      target_.narrow(0, begin - begin_, end - begin)
          .copy_(dataset.read_rows(begin - first, end - begin));
      if (range.begin < begin) left.push_back({range.begin, begin});
      if (end < range.end) left.push_back({end, range.end});
    }
    missing_ = std::move(left);
  }

  void require_complete(const fs::path& folder) const {
    if (is_complete()) return;
    throw Error(folder.string(),
                c10::str("no rank's file has element ", missing_.front().begin, " of ", name_),
                "A file is damaged, or belongs to another model.");
  }

 private:
  std::string name_;
  int64_t begin_;
  Tensor target_;
  std::vector<Range> missing_;
};

/// Opens one file at a time, and only those needed: there may be thousands.
void read_state(const std::vector<fs::path>& files, const Decoder& model, AdamW& optimizer) {
  std::vector<Wanted> wanted;
  for (size_t i = 0; i < model.blocks().size(); ++i) {
    for (const auto& [name, tensor] : state_tensors(has_masters(model)))
      wanted.emplace_back(state_path(i, name), model.blocks()[i].own(),
                          optimizer.state()[i].*tensor);
  }
  const auto is_complete = [](const Wanted& tensor) { return tensor.is_complete(); };
  for (const auto& path : files) {
    if (std::all_of(wanted.begin(), wanted.end(), is_complete)) return;
    const auto file = Hdf5File::open(path);
    for (auto& tensor : wanted) tensor.read(file);
  }
  for (const auto& tensor : wanted) tensor.require_complete(files.front().parent_path());
}

/// The run's counters, which every rank's state file holds.
TrainState read_progress(const fs::path& path, const RunIdentity& identity, AdamW& optimizer) {
  const auto file = Hdf5File::open(path);
  const auto version = counter(file, "/", "format_version");
  if (version != kFormatVersion) {
    throw Error(file.where(),
                c10::str("has format version ", version, "; this Regroup reads ", kFormatVersion),
                "Finish the run with the version of Regroup that began it, or start a new run.");
  }
  check_identity(path.parent_path(), read_identity(file), identity);
  optimizer.set_steps(counter(file, "/", "optimizer_steps"));
  return {counter(file, "/", "step"), counter(file, "/", "tokens"),
          counter(file, "/", "skipped_steps"), counter(file, "/", "skipped_in_a_row"),
          file.integer_attribute("/", "planned_steps").value_or(0)};
}

TrainState read_checkpoint(const fs::path& folder, const RunIdentity& identity, Decoder& model,
                           AdamW& optimizer, const World& world) {
  const torch::NoGradGuard no_grad;
  const auto files = state_files(folder, world.rank());
  const auto state = read_progress(files.front(), identity, optimizer);
  check_checksums(folder, world);
  load_weights(ModelFolder::open(folder), model);
  read_state(files, model, optimizer);
  return state;
}

}  // namespace

void Snapshot::reserve(const Decoder& model, AdamW& optimizer) {
  has_masters_ = has_masters(model);
  weights_.reserve(model);
  stretches_.resize(model.blocks().size());
  for (size_t i = 0; i < stretches_.size(); ++i) {
    stretches_[i].begin = model.blocks()[i].own().begin;
    for (const auto& [name, tensor] : state_tensors(has_masters_)) {
      auto& copy = stretches_[i].values.*tensor;
      const auto& values = optimizer.state()[i].*tensor;
      if (!copy.defined())
        copy = torch::zeros(values.sizes(), values.options().device(torch::kCPU));
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
    for (const auto& [name, tensor] : state_tensors(has_masters_))
      (stretches_[i].values.*tensor).copy_(optimizer.state()[i].*tensor);
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
  file.set_attribute("/", "planned_steps", state_.planned_steps);
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
        throw Error((folder / file).string(), "was written by another rank, but is not here",
                    "The run's folder must lie on a file system that all nodes share.");
      }
      sums[file] = sum;
    }
  }
  for (const auto& file : files_in(folder)) {  // config.json and its like
    if (!sums.contains(file)) sums[file] = checksum_of(folder / file);
  }
  write_json_file(folder / kChecksums, sums);
}

TrainState load_checkpoint(const fs::path& folder, const RunIdentity& identity, Decoder& model,
                           AdamW& optimizer, World& world) {
  TrainState state;
  world.all_or_throw([&] { state = read_checkpoint(folder, identity, model, optimizer, world); });
  return state;
}

}  // namespace regroup
