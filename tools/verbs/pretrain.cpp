#include "tools/verbs/training_verb.h"
#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

bool pretrain_reads(const TrainConfig&, const std::string& key) {
  return !key.starts_with("convert.") && !key.starts_with("uptrain.") &&
         !key.starts_with("distill.");
}

}  // namespace

ExitCode run_pretrain(const std::vector<std::string>& arguments) {
  return run_training(
      {.verb = "pretrain",
       .usage = "--config FILE --run DIR [--section.key=value ...] [options]",
       .summary = "Trains a decoder from random weights.",
       .example =
           "regroup pretrain --config configs/quickstart.ini --run runs/mha --train.steps=100"},
      {pretrain, pretrain_reads}, arguments);
}

}  // namespace regroup
