// trainers/checkpoint.h: everything that a run needs to resume exactly: a model folder and the
// optimizer's state. All ranks write in parallel; any number of ranks can read it.
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
  int64_t planned_steps = 0;  // length of the run when it was saved; 0: unknown
};

/// Values that must not change when a run is resumed: config keys and fingerprints by name.
using RunIdentity = std::map<std::string, std::string>;

/// A copy in host memory of this rank's part of a run at one step; later steps do not change it.
class Snapshot {
 public:
  Snapshot(int rank, int size) : rank_(rank), size_(size), weights_(rank, size) {}

  /// Allocates and touches the memory, so that the first take() does not fault pages in.
  void reserve(const Decoder& model, AdamW& optimizer);
  /// Copies the state. Every rank must call it. The memory is reused by the next call.
  void take(const TrainState& state, Decoder& model, AdamW& optimizer);

  const TrainState& state() const { return state_; }
  /// Writes this rank's share of the weights and its training_state.h5 (with several ranks
  /// training_state_00001_of_00004.h5): counters, moments, and float32 masters if the model's
  /// weights are bfloat16. Returns the file names.
  std::vector<std::string> write(const std::filesystem::path& folder,
                                 const ModelDescription& description,
                                 const RunIdentity& identity) const;

 private:
  /// A range of a block's flat parameters and its optimizer state.
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

/// One "name hash" line for each file.
std::string checksum_lines(const std::filesystem::path& folder,
                           const std::vector<std::string>& files);
/// Writes checksums.json from the lines of all ranks; hashes the folder's other files too.
void write_checksums(const std::filesystem::path& folder, const std::vector<std::string>& lines);

/// Reads this rank's part of the model and optimizer state from a checkpoint. Every rank must call
/// it, and if one fails all throw: a request Error that lists the differences if the identity
/// differs, an Error if files are missing or damaged.
TrainState load_checkpoint(const std::filesystem::path& folder, const RunIdentity& identity,
                           Decoder& model, AdamW& optimizer, World& world);

}  // namespace regroup
