#include <torch/types.h>

#include <cmath>

#include "framework/errors/error.h"
#include "framework/errors/failure.h"
#include "framework/files/atomic_write.h"
#include "framework/files/json.h"
#include "framework/process/processors.h"
#include "framework/progress/console.h"
#include "models/convert/convert.h"
#include "models/flops.h"
#include "models/model_folder.h"
#include "models/run_layout.h"
#include "models/token_meaning.h"
#include "trainers/evaluation.h"
#include "trainers/machine.h"
#include "trainers/run_setup.h"
#include "trainers/runs.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

bool converts_now(const TrainConfig& config) { return !config.convert.from.empty(); }

void check_request(const TrainConfig& config) {
  if (converts_now(config) == !config.uptrain.from.empty()) {
    throw request_error("uptrain", "starts from exactly one of [convert] from and [uptrain] from",
                        "Give [convert] from to convert the original now, or [uptrain] from for a "
                        "converted model.");
  }
  if (!converts_now(config) && config.uptrain.original.empty()) {
    throw request_error("uptrain.original", "is not given",
                        "Name the original that the model is evaluated against.");
  }
}

int64_t required_steps(const TrainConfig& config, const ModelFolder& original) {
  if (const auto steps = uptraining_steps(config, original)) return *steps;
  throw request_error(
      "uptrain.original_steps", "is not given, and the original's config.json does not say",
      "Give the original's steps, or [train] steps or tokens to say how long to train.");
}

/// FLOPs of the original's pretraining; if its config.json lacks them, estimated from
/// original_steps at this run's batch size.
double pretraining_flops(const TrainConfig& config, const ModelFolder& original) {
  const auto& known = original.provenance();
  if (known.pretrain_flops > 0) return known.pretrain_flops + known.uptrain_flops;
  if (!config.uptrain.original_steps) return 0;
  const auto tokens =
      static_cast<double>(*config.uptrain.original_steps * config.tokens_per_step());
  return training_flops_per_token(original.config(), config.data.seq_len) * tokens;
}

/// The converted model's provenance, completed if Regroup did not pretrain or convert it.
Provenance starting_provenance(const TrainConfig& config, const ModelFolder& original,
                               const ModelFolder& converted) {
  auto provenance = converted.provenance();
  provenance.pretrain_flops = pretraining_flops(config, original);
  if (!provenance.original) provenance.original = as_original(original);
  return provenance;
}

void check_originals(const TrainConfig& config, const ModelFolder& original) {
  if (config.data.seq_len > original.config().max_seq_len) {
    throw request_error("data.seq_len",
                        c10::str(config.data.seq_len, " is longer than the original's context of ",
                                 original.config().max_seq_len),
                        "Choose a shorter one.");
  }
  if (converts_now(config)) return;
  const auto converted = ModelFolder::open(config.uptrain.from);
  if (converted.config().vocab_size == original.config().vocab_size) return;
  throw request_error("uptrain.original",
                      c10::str("has a vocabulary of ", original.config().vocab_size,
                               ", uptrain.from one of ", converted.config().vocab_size),
                      "Name the model that uptrain.from was converted from.");
}

/// Models, data, choices and calibration text must mean the same by a token.
void check_tokens(const TrainConfig& config, const ModelFolder& original) {
  auto meanings = token_meanings(config);
  meanings.push_back(token_meaning(original));
  if (!converts_now(config))
    meanings.push_back(token_meaning(ModelFolder::open(config.uptrain.from)));
  require_same_tokens(meanings, config.data.allow_other_tokenizer);
}

/// The conversion that [convert] describes; nothing if the model is already converted.
std::optional<Conversion> requested_conversion(const TrainConfig& config,
                                               const ModelFolder& original) {
  if (!converts_now(config)) return std::nullopt;
  auto plan = config.convert.plan;
  plan.allow_other_tokenizer = config.data.allow_other_tokenizer;
  plan.seed = static_cast<uint64_t>(config.train.seed);
  const bool looks = plan.gains_from_text() || plan.calibration_tokens;
  if (plan.calibration.empty() && looks) plan.calibration = config.data.train;
  return std::optional<Conversion>(std::in_place, original, plan);
}

/// The folder that training starts from: [uptrain] from, or the run's converted/, which all ranks
/// write together unless it exists.
fs::path starting_folder(const TrainConfig& config, const std::optional<Conversion>& conversion,
                         const RunFolder& run, World& world) {
  if (!conversion) return config.uptrain.from;
  const auto folder = run.converted_folder();
  std::optional<AtomicFolder> writing;  // of the first process
  const fs::path unfinished = world.broadcast_string([&] {
    if (fs::exists(folder) && conversion->made(ModelFolder::open(folder))) return std::string();
    if (run.resumes()) {
      throw request_error(run.path().string(),
                          "was trained from another conversion than [convert] describes",
                          "Resume with the [convert] keys of its config.ini, or start a new run.");
    }
    return writing.emplace(folder).path().string();
  });
  if (unfinished.empty()) return folder;
  world.report_failure_of([&] { conversion->write(unfinished, world); });
  world.on_rank_0([&] { writing->commit_replacing(); });
  return folder;
}

/// The original in bfloat16 if [distill] is on.
std::optional<Decoder> load_teacher(const TrainConfig& config, const ModelFolder& original,
                                    torch::TensorOptions options, const World& world) {
  if (config.distill.weight == 0) return std::nullopt;
  return load_decoder(original, options.dtype(torch::kBFloat16), world.new_sharing());
}

nlohmann::ordered_json evaluate_run(const TrainConfig& config, const RunFolder& run,
                                    const fs::path& original, const fs::path& converted,
                                    torch::TensorOptions options, World& world) {
  EvaluationRequest request;
  request.models = {
      {original, "original"}, {converted, "converted"}, {run.final_folder(), "uptrained"}};
  request.reference = original;
  request.data = config.data.val;
  if (!config.eval.choices.empty()) request.choices = config.eval.choices;
  request.options = options;
  auto evaluation = evaluate(request, world);
  if (!world.is_rank_0()) return evaluation;
  write_json_file(run.evaluation_file(), evaluation);
  if (!config.train.threads) use_default_threads();  // the other processes of this node wait
  try {
    measure_speeds(evaluation, request);
  } catch (const c10::Error& error) {
    if (!is_out_of_memory(error)) throw;
    warn("decoding speed is not measured: a model does not fit on one device");
  }
  write_json_file(run.evaluation_file(), evaluation);
  return evaluation;
}

}  // namespace

std::optional<int64_t> uptraining_steps(const TrainConfig& config, const ModelFolder& original) {
  const auto original_steps = config.uptrain.original_steps ? config.uptrain.original_steps
                                                            : original.provenance().pretrain_steps;
  if (!original_steps) return configured_steps(config);
  // A double holds alpha inexactly: 0.05 * 100 must give 5 steps, not 6.
  const double exact = config.uptrain.alpha * static_cast<double>(*original_steps);
  const auto steps = static_cast<int64_t>(std::ceil(exact - 1e-9 * std::max(1.0, exact)));
  if (config.train.steps || config.train.tokens) {
    note_once(c10::str("trains ", steps, " steps, ", config.uptrain.alpha, " of the original's ",
                       *original_steps,
                       ": [train] steps and tokens count only where that is "
                       "unknown"));
  }
  return steps;
}

RunResult uptrain(const TrainConfig& config, const std::string& resolved_config,
                  const RunStart& start, World& world) {
  check_request(config);
  world.on_rank_0([&] { check_run_start(start); });
  const auto options = use_machine(config, world);
  const auto original =
      ModelFolder::open(converts_now(config) ? config.convert.from : config.uptrain.original);
  check_originals(config, original);
  const int64_t steps = required_steps(config, original);
  const auto data = open_run_data(config);
  check_tokens(config, original);
  check_run_data(data, original.config());
  const auto conversion = requested_conversion(config, original);

  RunFolder run(start, resolved_config, world);
  const auto converted = ModelFolder::open(starting_folder(config, conversion, run, world));
  const auto provenance = starting_provenance(config, original, converted);
  auto teacher = load_teacher(config, original, options, world);
  const TrainingJob job{
      .label = "uptrain",
      .config = config,
      .steps = steps,
      .description = {&converted.family(), converted.config(), config.train.dtype, provenance,
                      converted.text()},
      .train = data.train_split(),
      .val = data.val_split(),
      .teacher = teacher ? &*teacher : nullptr,
      .identity = run_identity(config, converted.config(), data, weights_hash(converted)),
      .resolved_config = resolved_config};
  describe_run(job, world);
  RunResult result{
      train_to_the_end(load_decoder(converted, options, world.new_sharing()), run, job, world), {}};
  teacher.reset();  // evaluation has its memory
  if (result.outcome.interrupted) return result;
  if (data.val) {
    result.evaluation =
        evaluate_run(config, run, original.path(), converted.path(), options, world);
  } else {
    warn("no [data] val is given: the model is not evaluated");
  }
  run.finish();
  return result;
}

}  // namespace regroup
