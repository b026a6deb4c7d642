#include <torch/types.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/flops.h"
#include "models/model_folder.h"
#include "tools/command_line/command_line.h"
#include "tools/verbs/verbs.h"
#include "trainers/job_needs.h"
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
  std::optional<double> alpha, tokens;
  std::optional<int64_t> seq_len;
  double mfu = 0.4, peak_tflops = 989;
  std::optional<fs::path> json_file;
  TrainConfig config;
  ConfigSchema schema;
};

/// The job, and the number of tokens the original was trained on if known.
struct Job {
  JobShape shape;
  std::optional<double> original_tokens;
};

Job job_of(const PlanOptions& options, const CommandLine& line) {
  if (line.given("model") == line.given("config")) {
    throw request_error("plan", "needs either --config or --model", "See `regroup plan --help`.");
  }
  const auto& config = options.config;
  Job job;
  job.original_tokens = options.tokens;
  if (options.model) {
    const auto folder = ModelFolder::open(*options.model);
    job.shape.model = folder.config();
    const auto seen = static_cast<double>(folder.provenance().tokens_seen);
    if (!job.original_tokens && seen > 0) job.original_tokens = seen;
  } else {
    job.shape.model = decoder_config(config);
  }
  if (!job.original_tokens && config.uptrain.original_steps) {
    job.original_tokens =
        static_cast<double>(*config.uptrain.original_steps * config.tokens_per_step());
  }
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
          {"gather_bytes", needs.gathers},
          {"reduction_bytes", needs.reductions},
          {"activation_bytes", needs.activations},
          {"device_bytes", needs.device()},
          {"snapshot_bytes", needs.snapshot},
          {"sent_bytes_a_step", needs.sent_a_step},
          {"fits", needs.device() <= memory - kReserved},
          {"largest_micro_batch", largest}};
}

std::optional<double> hours_of(const PlanOptions& options, const Job& job) {
  if (!job.original_tokens) return std::nullopt;
  const double tokens = options.alpha.value_or(options.config.uptrain.alpha) * *job.original_tokens;
  const double flops = tokens * training_flops_per_token(job.shape.model, job.shape.seq_len);
  const double pace = static_cast<double>(options.gpus) * options.mfu * options.peak_tflops * 1e12;
  return flops / pace / 3600;
}

std::string table(const Json& rows) {
  std::vector<std::vector<std::string>> cells{
      {"strategy", "recompute", "parameters", "gradients", "optimizer", "gathers", "reductions",
       "activations", "a GPU", "fits", "largest micro-batch", "sent a step"}};
  for (const auto& row : rows) {
    const auto bytes = [&](const char* key) { return human_bytes(row.at(key).get<double>()); };
    cells.push_back({row.at("strategy"), row.at("activation_checkpointing"),
                     bytes("parameter_bytes"), bytes("gradient_bytes"), bytes("optimizer_bytes"),
                     bytes("gather_bytes"), bytes("reduction_bytes"), bytes("activation_bytes"),
                     bytes("device_bytes"), row.at("fits").get<bool>() ? "yes" : "no",
                     c10::str(row.at("largest_micro_batch").get<int64_t>()),
                     bytes("sent_bytes_a_step")});
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
  CommandLine line(
      {.verb = "plan",
       .usage = "(--config FILE or --model MODEL) [options]",
       .summary =
           "Memory, wire bytes and largest micro-batch of a training job under every strategy.",
       .example = "regroup plan --config configs/llama2-7b.ini --gpus 8 --gpu-memory 80GB"});
  declare(options.schema, options.config);
  line.add_config(&options.schema);
  line.add("model", &options.model, "model to take the shape from, instead of a config")
      .shown_as("MODEL");
  line.add("gpus", &options.gpus, "number of GPUs, one rank each, 8 to a node",
           between(1, 1 << 20));
  line.add("gpu-memory", &options.gpu_memory, "memory of each GPU").shown_as("80GB");
  line.add("seq-len", &options.seq_len, "tokens of a sequence (default: data.seq_len)",
           at_least(1));
  line.add("tokens", &options.tokens,
           "tokens the original was trained on (default: from its config.json)", above(0));
  line.add("alpha", &options.alpha, "share of them to train (default: uptrain.alpha)", at_least(0));
  line.add("mfu", &options.mfu, "assumed MFU, a share of peak-tflops", above(0));
  line.add("peak-tflops", &options.peak_tflops,
           "peak of one GPU in the run's dtype (989: H100, bf16)", above(0));
  line.add_json(&options.json_file);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  const auto job = job_of(options, line);
  const auto hours = hours_of(options, job);
  Json json{{"parameters", job.shape.model.n_parameters()},
            {"gpus", options.gpus},
            {"gpu_memory_bytes", options.gpu_memory.bytes},
            {"dtype", dtype_info(job.shape.dtype).short_name},
            {"seq_len", job.shape.seq_len},
            {"micro_batch", job.shape.micro_batch},
            {"sequences_per_step", job.shape.sequences_per_step},
            {"hours", hours ? Json(*hours) : Json()},
            {"strategies", Json::array()}};
  for (const auto& candidate : candidates(options.gpus))
    json["strategies"].push_back(needs_json(candidate, job.shape, options.gpu_memory.bytes));

  std::cout << human_count(static_cast<double>(job.shape.model.n_parameters())) << " parameters, "
            << dtype_info(job.shape.dtype).short_name << ", " << options.gpus << " GPUs; a step of "
            << job.shape.sequences_per_step << " sequences of " << job.shape.seq_len
            << " tokens, micro-batches of " << job.shape.micro_batch << "\n\n"
            << table(json["strategies"]) << "\n"
            << human_bytes(static_cast<double>(kReserved))
            << " of each GPU are reserved for CUDA and NCCL. " << advice(json["strategies"])
            << "\n";
  if (hours) {
    std::cout << human_duration(*hours * 3600) << " at an MFU of " << fixed(100 * options.mfu, 0)
              << " % of " << fixed(options.peak_tflops, 0) << " TFLOP/s\n";
  }
  if (options.json_file) write_json_file(*options.json_file, json);
  return ExitCode::kDone;
}

}  // namespace regroup
