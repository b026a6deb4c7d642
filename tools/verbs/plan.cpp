#include <torch/types.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/convert/convert.h"
#include "models/flops.h"
#include "models/model_folder.h"
#include "tools/command_line/command_line.h"
#include "tools/verbs/verbs.h"
#include "trainers/job_needs.h"
#include "trainers/machine.h"
#include "trainers/run_setup.h"
#include "trainers/runs.h"
#include "trainers/train_config.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kGpusOfNode = 8;
constexpr int64_t kReserved = int64_t{2} << 30;  // CUDA context, NCCL and cuBLAS buffers

struct PlanOptions {
  std::optional<fs::path> model;
  int64_t gpus = 1;
  ByteCount gpu_memory{80'000'000'000};
  std::optional<double> tokens;
  bool has_config = false;
  std::optional<int64_t> seq_len;
  double mfu = 0.4, peak_tflops = 989;
  bool names_gpus = false;
  std::optional<fs::path> json_file;
  TrainConfig config;
  ConfigSchema schema;
};

struct Job {
  JobShape shape;
  std::string model;             // where its shape is from, and what becomes of its K/V heads
  std::optional<double> tokens;  // that it trains on, if known
};

/// The model that --model or the config's [convert] or [uptrain] names; empty for one of [model].
fs::path starting_model(const PlanOptions& options) {
  if (options.model) return *options.model;
  const auto& config = options.config;
  return config.convert.from.empty() ? config.uptrain.from : config.convert.from;
}

/// Takes shape and tokens from the folder that training starts from.
void add_folder(const PlanOptions& options, const fs::path& path, Job* job) {
  const auto& config = options.config;
  const auto& heads = config.convert.plan.n_kv_head;
  const auto folder = ModelFolder::open(path);
  job->shape.model = heads.empty() ? folder.config() : converted_config(folder.config(), heads);
  job->model =
      c10::str(" of ", path.string(), ", K/V heads ", kv_heads_text(folder.config().n_kv_head()));
  if (!heads.empty()) job->model += " -> " + kv_heads_text(job->shape.model.n_kv_head());
  if (config.convert.plan.kv_budget) job->model += " (before kv_budget, which removes some)";

  const auto original =
      config.uptrain.original.empty() ? folder : ModelFolder::open(config.uptrain.original);
  if (config.distill.weight > 0) {
    job->shape.teacher = original.config();
    job->model += ", with " + original.path().string() + " as teacher";
  }
  if (options.has_config) {
    if (const auto steps = uptraining_steps(config, original))
      job->tokens = static_cast<double>(*steps * config.tokens_per_step());
  } else if (original.provenance().tokens_seen > 0) {
    job->tokens = config.uptrain.alpha * static_cast<double>(original.provenance().tokens_seen);
  }
}

/// Takes shape and tokens from the config alone.
void add_config(const TrainConfig& config, Job* job) {
  job->shape.model = decoder_config(config);
  if (const auto steps = config.uptrain.original_steps) {
    job->tokens = config.uptrain.alpha * static_cast<double>(*steps * config.tokens_per_step());
  } else if (const auto steps_of_run = configured_steps(config)) {
    job->tokens = static_cast<double>(*steps_of_run * config.tokens_per_step());
  }
}

Job job_of(const PlanOptions& options) {
  if (!options.model && !options.has_config) {
    throw request_error("plan", "needs --config or --model", "See `regroup plan --help`.");
  }
  const auto& config = options.config;
  Job job;
  if (const auto path = starting_model(options); !path.empty()) {
    add_folder(options, path, &job);
  } else {
    add_config(config, &job);
  }
  if (options.tokens) job.tokens = config.uptrain.alpha * *options.tokens;
  auto& shape = job.shape;
  shape.dtype = config.train.dtype;
  shape.wire_dtype = config.dist.wire_dtype;
  shape.seq_len = options.seq_len.value_or(std::min(config.data.seq_len, shape.model.max_seq_len));
  if (shape.seq_len > shape.model.max_seq_len) {
    throw request_error("--seq-len",
                        c10::str(shape.seq_len, " tokens are more than the model's max_seq_len (",
                                 shape.model.max_seq_len, ")"),
                        "Take fewer.");
  }
  shape.micro_batch = config.train.micro_batch;
  shape.sequences_per_step = std::max<int64_t>(1, config.train.batch_tokens / shape.seq_len);
  shape.recomputes = config.recomputes_activations();
  return job;
}

struct Candidate {
  Strategy strategy;
  Division division;
};

std::vector<Candidate> candidates(int64_t gpus) {
  std::vector<Candidate> all{{Strategy::kReplicate, {1, gpus}}};
  if (gpus == 1) return all;
  if (gpus > kGpusOfNode && gpus % kGpusOfNode == 0)
    all.push_back({Strategy::kHybrid, {kGpusOfNode, gpus / kGpusOfNode}});
  all.push_back({Strategy::kShard, {gpus, 1}});
  return all;
}

Json needs_json(const Candidate& candidate, JobShape shape, int64_t memory) {
  // Sharded strategies require activation checkpointing.
  if (candidate.strategy != Strategy::kReplicate) shape.recomputes = true;
  const auto needs = needs_of(shape, candidate.division);
  const int64_t largest = largest_micro_batch(shape, candidate.division, memory - kReserved);
  return {{"strategy", name_of(strategies(), candidate.strategy)},
          {"activation_checkpointing", shape.recomputes ? "full" : "none"},
          {"parameter_bytes", needs.parameters},
          {"gradient_bytes", needs.gradients},
          {"optimizer_bytes", needs.optimizer},
          {"teacher_bytes", needs.teacher},
          {"gather_bytes", needs.gathers},
          {"reduction_bytes", needs.reductions},
          {"activation_bytes", needs.activations},
          {"device_bytes", needs.device()},
          {"snapshot_bytes", needs.snapshot},
          {"sent_bytes_a_step", needs.sent_a_step},
          {"fits", needs.device() <= memory - kReserved},
          {"largest_micro_batch", largest}};
}

double flops_a_token(const Job& job) {
  const auto& shape = job.shape;
  return training_flops_per_token(shape.model, shape.seq_len) +
         (shape.teacher ? forward_flops_per_token(*shape.teacher, shape.seq_len) : 0);
}

std::optional<double> hours_of(const PlanOptions& options, const Job& job) {
  if (!job.tokens) return std::nullopt;
  const double pace = static_cast<double>(options.gpus) * options.mfu * options.peak_tflops * 1e12;
  return *job.tokens * flops_a_token(job) / pace / 3600;
}

std::string time_text(const PlanOptions& options, const Job& job, std::optional<double> hours) {
  if (!hours) {
    return "The time depends on --tokens, on which the original was trained: nothing says how many "
           "they were.\n";
  }
  const double seconds = *hours * 3600;
  return c10::str(seconds < 1 ? "less than a second" : human_duration(seconds), " for ",
                  human_count(*job.tokens), " tokens at an MFU of ", fixed(100 * options.mfu, 0),
                  " % of ", fixed(options.peak_tflops, 0), " TFLOP/s on ", options.gpus,
                  options.gpus == 1 ? " GPU\n" : " GPUs\n");
}

/// The hours on this machine's CPU, where a config trains on it and no GPUs were asked about.
std::optional<double> cpu_hours_of(const PlanOptions& options, const Job& job) {
  const bool is_asked = options.has_config && !options.names_gpus;
  if (!is_asked || device_kind(options.config) != torch::kCPU || !job.tokens) return std::nullopt;
  constexpr double kSeconds = 1;
  const auto& shape = job.shape;
  PeakFlops peak(torch::TensorOptions(shape.dtype), shape.micro_batch * shape.seq_len,
                 shape.model.d_model, shape.model.layer(0).mlp.d_ff);
  peak.measure(kSeconds);
  return *job.tokens * flops_a_token(job) / (options.mfu * peak.value()) / 3600;
}

std::string cpu_time_text(std::optional<double> hours, double mfu) {
  if (!hours) return "";
  return c10::str("On this CPU, where the config trains: about ", human_duration(*hours * 3600),
                  " at an MFU of ", fixed(100 * mfu, 0), " % of its measured peak\n");
}

std::string table(const Json& rows) {
  std::vector<std::vector<std::string>> cells{
      {"strategy", "recompute", "parameters", "gradients", "optimizer", "teacher", "gathers",
       "reductions", "activations", "a GPU", "fits", "largest micro-batch", "sent a step"}};
  for (const auto& row : rows) {
    const auto bytes = [&](const char* key) { return human_bytes(row.at(key).get<double>()); };
    cells.push_back(
        {row.at("strategy"), row.at("activation_checkpointing"), bytes("parameter_bytes"),
         bytes("gradient_bytes"), bytes("optimizer_bytes"), bytes("teacher_bytes"),
         bytes("gather_bytes"), bytes("reduction_bytes"), bytes("activation_bytes"),
         bytes("device_bytes"), row.at("fits").get<bool>() ? "yes" : "no",
         c10::str(row.at("largest_micro_batch").get<int64_t>()), bytes("sent_bytes_a_step")});
  }
  return aligned_table(cells);
}

/// The first strategy that fits, in order of communication.
std::string advice(const Json& rows) {
  for (const auto& row : rows) {
    if (row.at("fits").get<bool>())
      return "Take strategy = " + row.at("strategy").get<std::string>() + ".";
  }
  for (const auto& row : rows) {
    const auto largest = row.at("largest_micro_batch").get<int64_t>();
    if (largest > 0) {
      return c10::str("Take strategy = ", row.at("strategy").get<std::string>(),
                      " and train.micro_batch = ", largest, ".");
    }
  }
  return "No strategy fits: use more GPUs, activation_checkpointing = full, or a shorter "
         "--seq-len.";
}

}  // namespace

ExitCode run_plan(const std::vector<std::string>& arguments) {
  PlanOptions options;
  std::optional<double> alpha;
  CommandLine line(
      {.verb = "plan",
       .usage = "[--config FILE] [--model MODEL] [options]",
       .summary =
           "Memory, wire bytes and largest micro-batch of a training job under every strategy.",
       .example = "regroup plan --config configs/llama2-7b.ini --gpus 8 --gpu-memory 80GB"});
  declare(options.schema, options.config);
  line.add_config(&options.schema);
  line.add("model", &options.model, "model to start from, instead of the config's")
      .shown_as("MODEL");
  line.add("gpus", &options.gpus, "number of GPUs, one rank each, 8 to a node",
           between(1, 1 << 20));
  line.add("gpu-memory", &options.gpu_memory, "memory of each GPU").shown_as("80GB");
  line.add("seq-len", &options.seq_len, "tokens of a sequence (default: data.seq_len)",
           at_least(1));
  line.add("tokens", &options.tokens,
           "tokens the original was trained on (default: from its config.json)", above(0));
  line.add("alpha", &alpha, "share of them to train (default: uptrain.alpha)", at_least(0));
  line.add("mfu", &options.mfu, "assumed MFU, a share of peak-tflops", above(0));
  line.add("peak-tflops", &options.peak_tflops,
           "peak of one GPU in the run's dtype (989: H100, bf16)", above(0));
  line.add_json(&options.json_file);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  options.has_config = line.given("config");
  options.names_gpus = line.given("gpus") || line.given("peak-tflops");
  if (alpha) options.config.uptrain.alpha = *alpha;
  const auto job = job_of(options);
  const auto hours = hours_of(options, job), cpu_hours = cpu_hours_of(options, job);
  const auto& shape = job.shape;
  Json json{{"parameters", n_parameters(shape.model)},
            {"n_kv_head", shape.model.n_kv_head()},
            {"teacher_parameters", shape.teacher ? Json(n_parameters(*shape.teacher)) : Json()},
            {"tokens", job.tokens ? Json(*job.tokens) : Json()},
            {"gpus", options.gpus},
            {"gpu_memory_bytes", options.gpu_memory.bytes},
            {"dtype", dtype_info(shape.dtype).short_name},
            {"seq_len", shape.seq_len},
            {"micro_batch", shape.micro_batch},
            {"sequences_per_step", shape.sequences_per_step},
            {"hours", hours ? Json(*hours) : Json()},
            {"cpu_hours", cpu_hours ? Json(*cpu_hours) : Json()},
            {"strategies", Json::array()}};
  for (const auto& candidate : candidates(options.gpus))
    json["strategies"].push_back(needs_json(candidate, job.shape, options.gpu_memory.bytes));

  std::cout << human_count(static_cast<double>(n_parameters(shape.model))) << " parameters"
            << job.model << "; " << dtype_info(shape.dtype).short_name << ", " << options.gpus
            << (options.gpus == 1 ? " GPU" : " GPUs") << "; a step of " << shape.sequences_per_step
            << " sequences of " << shape.seq_len << " tokens, micro-batches of "
            << shape.micro_batch << "\n\n"
            << table(json["strategies"]) << "\n"
            << human_bytes(static_cast<double>(kReserved))
            << " of each GPU are reserved for CUDA and NCCL. " << advice(json["strategies"]) << "\n"
            << cpu_time_text(cpu_hours, options.mfu) << time_text(options, job, hours);
  if (options.json_file) write_results_file(*options.json_file, json);
  return ExitCode::kDone;
}

}  // namespace regroup
