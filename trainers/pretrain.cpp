#include <torch/types.h>

#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "trainers/run_setup.h"
#include "trainers/runs.h"

namespace regroup {
namespace {

/// The data's own tokenizer goes with the model. Throws Error where it is no JSON.
TextHandling text_of(const TokenData& data) {
  TextHandling text;
  text.special_tokens["eos_token_id"] = data.eos_id();
  text.tokenizer_json = data.tokenizer();
  if (text.tokenizer_json.empty()) {
    // Without these keys transformers would take its class's defaults, which are ordinary tokens.
    for (const char* key : {"bos_token_id", "pad_token_id"}) text.special_tokens[key] = nullptr;
  } else {
    parse_json(text.tokenizer_json, data.path().string() + ": tokenizer");
  }
  return text;
}

}  // namespace

RunResult pretrain(const TrainConfig& config, const std::string& resolved_config,
                   const RunStart& start, World& world) {
  const auto steps = configured_steps(config);
  if (!steps)
    throw request_error("[train]", "neither steps nor tokens is given", "Say how long to train.");
  world.on_rank_0([&] { check_run_start(start); });
  const auto options = use_machine(config, world);
  const auto data = open_run_data(config);
  require_same_tokens(token_meanings(config), config.data.allow_other_tokenizer);
  const auto architecture = decoder_config(config, data.train.vocab_size());
  check_run_data(data, architecture);
  const auto text = text_of(data.train);

  RunFolder run(start, resolved_config, world);
  Decoder model(architecture, options, world.new_sharing());
  if (!run.resumes()) initialize(model, static_cast<uint64_t>(config.train.seed));
  const TrainingJob job{.label = "pretrain",
                        .config = config,
                        .steps = *steps,
                        .description = {&family_named(config.model.family),
                                        architecture,
                                        config.train.dtype,
                                        {},
                                        text},
                        .train = data.train_split(),
                        .val = data.val_split(),
                        .identity = run_identity(config, architecture, data, ""),
                        .resolved_config = resolved_config};
  describe_run(job, world);
  const auto outcome = train_to_the_end(std::move(model), run, job, world);
  if (!outcome.interrupted) run.finish();
  return {outcome, {}};
}

}  // namespace regroup
