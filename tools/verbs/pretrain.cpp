#include "tools/verbs/training_verb.h"
#include "tools/verbs/verbs.h"

namespace regroup {

ExitCode run_pretrain(const std::vector<std::string>& arguments) {
  return run_training(
      {.verb = "pretrain",
       .usage = "--config FILE --run DIR [--section.key=value ...] [options]",
       .summary = "Trains a decoder from random weights.",
       .example =
           "regroup pretrain --config configs/quickstart.ini --run runs/mha --train.steps=100"},
      pretrain, arguments);
}

}  // namespace regroup
