#include "trainers/run_setup.h"

#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>

#include "framework/data/batches.h"
#include "framework/errors/error.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/config/decoder_json.h"
#include "models/config/decoder_parameters.h"
#include "models/model_writer.h"
#include "models/weight_copy.h"

namespace regroup {

namespace {

/// Throws where the split has not one window of seq_len + 1 tokens.
void check_length(const TokenSplit& split, int64_t seq_len) {
  const Batches windows(split, seq_len, std::nullopt);
}

}  // namespace

RunData open_run_data(const TrainConfig& config) {
  if (config.data.train.empty()) {
    throw request_error("data.train", "is not given",
                        "Name a token file; tools/prepare_data.py writes one.");
  }
  RunData data{TokenData::open(config.data.train), std::nullopt, std::nullopt};
  check_length(data.train_split(), config.data.seq_len);
  if (!config.data.val.empty()) {
    data.val = TokenData::open(config.data.val);
    check_length(*data.val_split(), config.data.seq_len);
  }
  if (!config.eval.choices.empty()) data.choices = Choices::open(config.eval.choices);
  return data;
}

void check_run_data(const RunData& data, const DecoderConfig& model) {
  data.train.check_vocabulary(data.train_split(), model.vocab_size);
  if (data.val) data.val->check_vocabulary(*data.val_split(), model.vocab_size);
  if (data.choices) data.choices->check_fit(model.vocab_size, model.max_seq_len);
}

std::vector<TokenMeaning> token_meanings(const TrainConfig& config) {
  std::vector<TokenMeaning> meanings;
  for (const auto& file : {config.data.train, config.data.val, config.eval.choices}) {
    if (!file.empty()) meanings.push_back(token_meaning(file));
  }
  return meanings;
}

torch::DeviceType device_kind(const TrainConfig& config) {
  return config.train.device == "cuda" ? torch::kCUDA : torch::kCPU;
}

torch::Device device_of(const TrainConfig& config, const World& world) {
  if (device_kind(config) == torch::kCPU) return torch::kCPU;
  const auto n_gpus = static_cast<int>(torch::cuda::device_count());
  if (n_gpus == 0) {
    throw request_error("train.device",
                        "cuda is asked for, but no GPU is there, or this is a CPU build",
                        "Take device = cpu; regroup --version says what this build can use.");
  }
  if (n_gpus == 1) return torch::Device(torch::kCUDA, 0);  // the launcher shows each its own
  if (world.local_rank() >= n_gpus) {
    throw request_error(
        "train.device",
        c10::str("process ", world.local_rank(), " of this node has no GPU: there are ", n_gpus),
        "Start as many processes on a node as it has GPUs.");
  }
  return torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(world.local_rank()));
}

torch::TensorOptions use_machine(const TrainConfig& config, const World& world) {
  if (config.train.threads) torch::set_num_threads(static_cast<int>(*config.train.threads));
  return torch::TensorOptions().dtype(config.train.dtype).device(device_of(config, world));
}

namespace {

/// Every field by its path: "model.layers.0.attention.n_head".
void add_model(RunIdentity& identity, const DecoderConfig& model) {
  const auto fields = decoder_json(model).flatten();
  for (const auto& [path, value] : fields.items()) {
    auto name = "model" + path;
    std::replace(name.begin(), name.end(), '/', '.');
    identity[name] = value.is_string() ? value.get<std::string>() : value.dump();
  }
}

}  // namespace

RunIdentity run_identity(const TrainConfig& config, const DecoderConfig& model, const RunData& data,
                         const std::string& starting_weights) {
  const auto& optim = config.optim;
  RunIdentity identity{
      {"starting weights", starting_weights},
      {"data.train", data.train_split().fingerprint()},
      {"data.seq_len", c10::str(config.data.seq_len)},
      {"data.shuffle_seed", c10::str(config.data.shuffle_seed)},
      {"train.seed", c10::str(config.train.seed)},
      {"train.batch_tokens", c10::str(config.train.batch_tokens)},
      {"train.dtype", std::string(dtype_info(config.train.dtype).short_name)},
      {"optim.schedule", name_of(schedule_names(), optim.schedule.kind)},
  };
  const std::pair<const char*, double> numbers[] = {
      {"optim.lr", optim.schedule.lr},
      {"optim.min_lr", optim.schedule.min_lr},
      {"optim.beta1", optim.adamw.beta1},
      {"optim.beta2", optim.adamw.beta2},
      {"optim.eps", optim.adamw.eps},
      {"optim.weight_decay", optim.adamw.weight_decay},
      {"optim.grad_clip", optim.grad_clip},
      {"distill.weight", config.distill.weight},
      {"distill.temperature", config.distill.temperature}};
  for (const auto& [name, value] : numbers) identity[name] = print_number(value);
  add_model(identity, model);
  identity["optim.warmup_steps"] = c10::str(optim.schedule.warmup_steps);
  return identity;
}

TrainingOutcome train_to_the_end(Decoder model, RunFolder& run, const TrainingJob& job,
                                 World& world) {
  world.require_equal(job.identity);
  const auto outcome = train(model, run, job, world);
  if (outcome.interrupted) return outcome;
  auto description = job.description;
  description.provenance = trained_provenance(job, outcome.state);
  description.form = &deployable_form(*description.family, description.config);
  WeightCopy weights(world.rank(), world.size());
  weights.take(model);
  run.write_final([&](const std::filesystem::path& folder) {
    return write_model(folder, description, weights.sources(), kDefaultShardBytes, world.rank());
  });
  return outcome;
}

void describe_run(const TrainingJob& job, const World& world) {
  const auto& config = job.config;
  const auto& model = job.description.config;
  note(c10::str(job.label, ": ", human_count(static_cast<double>(n_parameters(model))),
                " parameters, ", model.n_layer(), " layers, ", model.layer(0).attention.n_head,
                " query heads, K/V heads ", kv_heads_text(model.n_kv_head()), "; ",
                dtype_info(config.train.dtype).short_name, " on ", config.train.device, ", ",
                torch::get_num_threads(), " threads"));
  if (world.size() > 1) {
    note(c10::str(job.label, ": ", world.size(), " processes, strategy ",
                  name_of(strategies(), config.dist.strategy)));
  }
  note(c10::str(
      job.label, ": ", job.steps, " steps of ", config.sequences_per_step(), " sequences of ",
      config.data.seq_len, " tokens (micro-batches of ", config.train.micro_batch, "), ",
      human_count(static_cast<double>(job.steps * config.tokens_per_step())), " tokens of ",
      human_count(static_cast<double>(job.train.n_tokens())), " in the data"));
  if (config.tokens_per_step() == config.train.batch_tokens) return;
  note(c10::str(job.label, ": a step has ", config.tokens_per_step(), " tokens, not batch_tokens (",
                config.train.batch_tokens, "), which are no whole number of sequences"));
}

}  // namespace regroup
