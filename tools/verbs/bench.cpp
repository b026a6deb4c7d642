#include <torch/types.h>
#include <torch/utils.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/flops.h"
#include "models/model_folder.h"
#include "tools/command_line/compute.h"
#include "tools/command_line/processes.h"
#include "tools/verbs/verbs.h"
#include "trainers/machine.h"
#include "trainers/run_setup.h"
#include "trainers/speed.h"
#include "trainers/train_config.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kWeightSeed = 0;
constexpr double kDecodeSeconds = 3;

/// Options that `bench train` and `bench decode` share. Weights are random, for a MODEL too: speed
/// does not depend on their values.
struct BenchOptions {
  std::optional<fs::path> model;
  std::vector<int64_t> n_kv_head;  // empty: the model's
  Compute compute;
  std::optional<fs::path> json_file;
  TrainConfig config;
  ConfigSchema schema;

  void declare_on(CommandLine& line) {
    declare(schema, config);
    line.add_config(&schema);
    line.add("model", &model, "model to take the shape from, instead of a config")
        .shown_as("MODEL");
    line.add("kv-heads", &n_kv_head, "K/V heads instead of the model's, one number or one a layer",
             at_least(1));
    compute.declare_on(line);
    line.add_json(&json_file);
    line.add_quiet();
  }
};

DecoderConfig benched_config(const BenchOptions& options, const CommandLine& line,
                             const std::string& verb) {
  if (line.given("model") == line.given("config")) {
    throw request_error(verb, "needs either --config or --model",
                        "See `regroup " + verb + " --help`.");
  }
  DecoderConfig config;
  if (options.model) {
    config = ModelFolder::open(*options.model).config();
  } else {
    config = decoder_config(options.config);
  }
  if (options.n_kv_head.empty()) return config;
  std::vector<int64_t> n_head;
  for (const auto& layer : config.layers) n_head.push_back(layer.attention.n_head);
  config.set_n_kv_head(kv_heads_per_layer(options.n_kv_head, n_head, "query heads"));
  return config;
}

void check_length(int64_t length, const std::string& what, const DecoderConfig& config) {
  if (length <= config.max_seq_len) return;
  throw request_error(
      what,
      c10::str(length, " tokens are more than the model's max_seq_len (", config.max_seq_len, ")"),
      "Take fewer.");
}

Decoder random_decoder(const DecoderConfig& config, const BenchOptions& options,
                       const World& world) {
  const auto device = device_of(options.config, world);
  Decoder decoder(config, options.compute.use().device(device), world.new_sharing());
  initialize(decoder, kWeightSeed);
  return decoder;
}

/// Adds the fields about model and machine that both benchmarks report.
void add_setting(const Decoder& model, const BenchOptions& options, int64_t batch, Json& json) {
  json["parameters"] = n_parameters(model.config());
  json["n_kv_head"] = model.config().n_kv_head();
  json["batch"] = batch;
  json["dtype"] = dtype_info(options.compute.dtype).short_name;
  json["threads"] = torch::get_num_threads();
  json["peak_rss_bytes"] = peak_resident_bytes();
  const auto on_device = peak_device_bytes(model.options().device());
  json["peak_device_bytes"] = on_device ? Json(*on_device) : Json();
}

/// Adds whether other processes slowed the measurement down, and warns where they did.
void add_load(double busy_elsewhere, int64_t n_processes, Json& json) {
  const auto remark = busy_remark(busy_elsewhere, n_processes);
  json["busy_elsewhere"] = busy_elsewhere;
  json["machine_was_busy"] = remark.has_value();
  if (remark) warn(*remark);
}

void report(const std::string& sentence, const Json& json, const BenchOptions& options) {
  const bool on_gpu = !json["peak_device_bytes"].is_null();
  std::cout << sentence << ", peak memory "
            << human_bytes(json[on_gpu ? "peak_device_bytes" : "peak_rss_bytes"].get<double>())
            << "; " << human_count(json["parameters"].get<double>()) << " parameters, K/V heads "
            << kv_heads_text(json["n_kv_head"].get<std::vector<int64_t>>()) << ", batch "
            << json["batch"] << ", " << json["dtype"].get<std::string>() << ", " << json["threads"]
            << " threads\n";
  if (options.json_file) write_results_file(*options.json_file, json);
}

struct TrainBench {
  BenchOptions options;
  CommandLine line{
      {.verb = "bench train",
       .usage = "(--config FILE or --model MODEL) [options]",
       .summary =
           "Throughput and memory of training steps on random tokens; medians over steps. With "
           "several ranks, each takes --batch sequences.",
       .example = "regroup bench train --model runs/mha --kv-heads 2 --batch 8 --seq-len 512"}};
  int64_t batch = 8;
  std::optional<int64_t> seq_len;
  double seconds = 10;

  std::optional<ProcessOptions> parse(const std::vector<std::string>& arguments) {
    options.declare_on(line);
    line.add("batch", &batch, "sequences of a step", at_least(1));
    line.add("seq-len", &seq_len,
             "tokens of a sequence (default: data.seq_len, at most max_seq_len)", at_least(1));
    line.add("seconds", &seconds, "how long to measure", above(0));
    if (!line.parse(arguments)) return std::nullopt;
    return ProcessOptions{options.config.dist, device_kind(options.config),
                          options.schema.values()};
  }

  ExitCode run(World& world) {
    const auto config = benched_config(options, line, "bench train");
    const int64_t length =
        seq_len.value_or(std::min(options.config.data.seq_len, config.max_seq_len));
    check_length(length, "--seq-len", config);
    auto model = random_decoder(config, options, world);
    model.enable_training(options.config.recomputes_activations());
    const auto speed = measure_training(model, batch, length, seconds, world);
    Json json{
        {"tokens_per_s", speed.tokens_per_s},
        {"step_s", speed.step_s},
        {"mfu", speed.mfu},
        {"peak_flops", speed.peak_flops},
        {"steps", speed.steps},
        {"seq_len", length},
        {"processes", world.size()},
        {"strategy",
         world.size() > 1 ? Json(name_of(strategies(), options.config.dist.strategy)) : Json()},
        {"sent_bytes", speed.sent_bytes}};
    add_setting(model, options, batch, json);
    add_load(speed.busy_elsewhere, world.local_size(), json);
    if (!world.is_rank_0()) return ExitCode::kDone;
    report(c10::str("training ", human_count(speed.tokens_per_s), " tokens/s, ",
                    fixed(speed.step_s, 4), " s a step, ", mfu_text(speed.mfu)),
           json, options);
    return ExitCode::kDone;
  }
};

ExitCode bench_train(const std::vector<std::string>& arguments) {
  TrainBench bench;
  return run_on_all_ranks([&] { return bench.parse(arguments); },
                          [&](World& world) { return bench.run(world); });
}

ExitCode bench_decode(const std::vector<std::string>& arguments) {
  BenchOptions options;
  int64_t batch = 1, prompt = 128, n_new = 64;
  CommandLine line(
      {.verb = "bench decode",
       .usage = "(--config FILE or --model MODEL) [options]",
       .summary = "Throughput and memory of decoding with a K/V cache; medians over rounds.",
       .example = "regroup bench decode --model runs/gqa2 --batch 16 --prompt 256 --new 64"});
  options.declare_on(line);
  line.add("batch", &batch, "sequences", at_least(1));
  line.add("prompt", &prompt, "tokens of a prompt", at_least(1));
  line.add("new", &n_new, "tokens that follow it", at_least(2));
  if (!line.parse(arguments)) return ExitCode::kDone;

  const auto config = benched_config(options, line, "bench decode");
  check_length(prompt + n_new, "--prompt and --new", config);
  auto model = random_decoder(config, options, World());
  const auto speed = measure_decode(model, batch, prompt, n_new, kDecodeSeconds);
  const auto number_bytes = static_cast<int64_t>(model.options().dtype().itemsize());
  Json json{{"prefill_tokens_per_s", speed.prefill_tokens_per_s},
            {"decode_tokens_per_s", speed.decode_tokens_per_s},
            {"kv_bytes_per_token", config.kv_bytes_per_token(number_bytes)},
            {"prompt", prompt},
            {"new", n_new}};
  add_setting(model, options, batch, json);
  add_load(speed.busy_elsewhere, /*n_processes=*/1, json);
  report(c10::str("decoding ", human_count(speed.decode_tokens_per_s), " tokens/s, prefill ",
                  human_count(speed.prefill_tokens_per_s), " tokens/s, K/V cache ",
                  human_bytes(json["kv_bytes_per_token"].get<double>()), " a token"),
         json, options);
  return ExitCode::kDone;
}

constexpr const char* kHelp =
    "regroup bench train|decode [options]\n\n"
    "Throughput and memory of a model's shape on this machine, with random weights.\n\n"
    "  regroup bench train --help   training steps\n"
    "  regroup bench decode --help  decoding with a K/V cache\n\n"
    "Example:\n"
    "  regroup bench decode --model runs/gqa2 --batch 16 --json decode.json\n";

}  // namespace

ExitCode run_bench(const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  const std::vector<std::string> rest(arguments.begin() + (arguments.empty() ? 0 : 1),
                                      arguments.end());
  if (what == "train") return bench_train(rest);
  if (what == "decode") return bench_decode(rest);
  if (what == "--help" || what == "-h") {
    std::cout << kHelp;
    return ExitCode::kDone;
  }
  throw request_error(
      "bench",
      what.empty() ? "does not say what to measure" : abbreviated(what) + ": unknown benchmark",
      "Use `regroup bench train` or `regroup bench decode`.");
}

}  // namespace regroup
