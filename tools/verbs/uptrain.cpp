#include "tools/verbs/training_verb.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

/// The architecture is the original's. [convert] acts where the original is converted now.
bool uptrain_reads(const TrainConfig& config, const std::string& key) {
  if (key.starts_with("convert.")) return !config.convert.from.empty();
  return !key.starts_with("model.");
}

}  // namespace

ExitCode run_uptrain(const std::vector<std::string>& arguments) {
  return run_training(
      {.verb = "uptrain",
       .usage = "--config FILE --run DIR [--section.key=value ...] [options]",
       .summary = "Converts an original to fewer K/V heads, trains it for a share alpha of the "
                  "original's steps, and evaluates it against the original.",
       .example = "regroup uptrain --config configs/quickstart.ini --run runs/gqa2 "
                  "--convert.from=runs/mha --convert.n_kv_head=2"},
      {uptrain, uptrain_reads}, arguments);
}

}  // namespace regroup
