// trainers/checkpoint.h: what a run needs to go on as if it had never stopped: a model folder, the
// optimizer's state beside it, written by all processes side by side and read by any number of
// them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "framework/distributed/world.h"
#include "framework/parameters/adamw.h"
#include "models/decoder.h"
#include "models/weight_copy.h"

namespace regroup {

struct TrainState {
  int64_t step = 0;           // optimizer steps begun, skipped ones included
  int64_t tokens = 0;         // trained on in this run
  int64_t skipped_steps = 0;  // for a loss or gradient that was not finite
  int64_t skipped_in_a_row = 0;
};

/// What must stay the same when a run is resumed: config keys and fingerprints by name.
using RunIdentity = std::map<std::string, std::string>;

/// A run at one step, copied to host memory, which later steps don't reach: what this process is to
/// write of it.
class Snapshot {
 public:
  Snapshot(int rank, int size) : rank_(rank), size_(size), weights_(rank, size) {}

  /// Makes the memory, and touches it, so that the first take() need not wait for its pages.
  void reserve(const Decoder& model, AdamW& optimizer);
  /// All processes call it alike. Memory is kept for the next time.
  void take(const TrainState& state, Decoder& model, AdamW& optimizer);

  const TrainState& state() const { return state_; }
  /// Writes this process's share of the weights and its training_state.h5 (of several processes
  /// training_state_00001_of_00004.h5: counters, moments, and masters where the model's weights are
  /// bfloat16). -> the names of the files.
  std::vector<std::string> write(const std::filesystem::path& folder,
                                 const ModelDescription& description,
                                 const RunIdentity& identity) const;

 private:
  /// A stretch of a block's flat parameters and its optimizer state.
  struct Stretch {
    int64_t begin = 0;
    AdamWState values;
  };

  int rank_, size_;
  WeightCopy weights_;
  TrainState state_;
  std::vector<Stretch> stretches_;
  int64_t optimizer_steps_ = 0;
  bool has_masters_ = false;
};

/// "name hash" lines of files, for a checkpoint's checksums.
std::string checksum_lines(const std::filesystem::path& folder,
                           const std::vector<std::string>& files);
/// Writes checksums.json: all processes' lines, and whatever else is in the folder.
void write_checksums(const std::filesystem::path& folder, const std::vector<std::string>& lines);

/// Reads what this process holds of the model and updates with the optimizer from a checkpoint. All
/// processes call it alike, and where one finds something wrong all throw: a request Error that
/// lists what differs when the identity is another one; an Error when files are missing or damaged.
TrainState load_checkpoint(const std::filesystem::path& folder, const RunIdentity& identity,
                           Decoder& model, AdamW& optimizer, World& world);

}  // namespace regroup
