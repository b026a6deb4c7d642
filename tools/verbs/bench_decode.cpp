#include <iostream>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/process/processors.h"
#include "framework/progress/progress.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "tools/verbs/bench_setup.h"
#include "trainers/decode_sweep.h"
#include "trainers/speed.h"

namespace regroup {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kDecodeSeconds = 3;

struct DecodeBench {
  BenchOptions options;
  int64_t batch = 1, prompt = 128, n_new = 64;
  bool sweeps = false;

  void declare_on(CommandLine& line) {
    options.declare_on(line);
    line.add("batch", &batch, "sequences", at_least(1));
    line.add("prompt", &prompt, "tokens of a prompt", at_least(1));
    line.add("new", &n_new, "tokens that follow it", at_least(2));
    line.add_flag(
        "sweep", &sweeps,
        "compares numbers of K/V heads, at batch 1 and 16 (or --batch) after 512 and 4096 "
        "tokens (or --prompt), with what their bytes predict");
  }

  ExitCode measure(const DecoderConfig& config) const {
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

  /// The sweep's values where the command line gives none: those that the context holds.
  DecodeSweep sweep_of(const CommandLine& line, const DecoderConfig& config) const {
    DecodeSweep sweep;
    if (line.given("new")) sweep.n_new = n_new;
    sweep.n_kv_head = kv_heads_to_compare(config.layer(0).attention.n_head);
    sweep.batches = line.given("batch") ? std::vector{batch} : std::vector<int64_t>{1, 16};
    const int64_t longest = config.max_seq_len - sweep.n_new - 1;
    if (line.given("prompt")) {
      check_length(prompt + sweep.n_new + 1, "--prompt and --new", config);
      sweep.prompts = {prompt};
    } else {
      for (const int64_t length : {512, 4096}) sweep.prompts.push_back(std::min(length, longest));
      if (sweep.prompts[0] == sweep.prompts[1]) sweep.prompts.pop_back();
    }
    return sweep;
  }

  ExitCode sweep(const CommandLine& line, const DecoderConfig& config) const {
    if (line.given("kv-heads"))
      throw request_error("bench decode", "--sweep compares all --kv-heads", "Leave one out.");
    const auto plan = sweep_of(line, config);
    ProgressLine progress(
        {.label = "bench decode",
         .total = plan.rounds * static_cast<int64_t>(plan.n_kv_head.size() * plan.batches.size() *
                                                     plan.prompts.size()),
         .round = "measurement"});
    int64_t n_measured = 0;
    const OtherProcesses others;
    const auto points = sweep_decoding(
        config, [&](const DecoderConfig& one) { return random_decoder(one, options, World()); },
        plan, [&] { progress.update(++n_measured); });
    progress.finish();
    print_sweep(points);
    if (!options.json_file) return ExitCode::kDone;
    Json json{{"points", Json::array()},
              {"new", plan.n_new},
              {"rounds", plan.rounds},
              {"parameters", n_parameters(config)},
              {"dtype", dtype_info(options.compute.dtype).short_name},
              {"threads", torch::get_num_threads()}};
    for (const auto& point : points) json["points"].push_back(json_of(point));
    add_load(others.busy_processors(), /*n_processes=*/1, json);
    write_results_file(*options.json_file, json);
    return ExitCode::kDone;
  }

  static Json json_of(const SweepPoint& point) {
    return {{"n_kv_head", point.n_kv_head},     {"batch", point.batch},
            {"prompt", point.prompt},           {"decode_tokens_per_s", point.tokens_per_s},
            {"spread", point.spread},           {"gain", point.gain},
            {"predicted_gain", point.predicted}};
  }

  static void print_sweep(const std::vector<SweepPoint>& points) {
    std::cout << "| K/V heads | batch | prompt | tokens/s (spread) | gain | predicted by bytes |\n"
                 "|---:|---:|---:|---:|---:|---:|\n";
    for (const auto& point : points) {
      std::cout << "| " << point.n_kv_head << " | " << point.batch << " | " << point.prompt << " | "
                << fixed(point.tokens_per_s, 1) << " (" << fixed(100 * point.spread, 0) << " %) | "
                << fixed(point.gain, 2) << " | " << fixed(point.predicted, 2) << " |\n";
    }
  }
};

}  // namespace

ExitCode bench_decode(const std::vector<std::string>& arguments) {
  DecodeBench bench;
  CommandLine line(
      {.verb = "bench decode",
       .usage = "(--config FILE or --model MODEL) [options]",
       .summary = "Throughput and memory of decoding with a K/V cache; medians over rounds.",
       .example = "regroup bench decode --model runs/gqa2 --batch 16 --prompt 256 --new 64\n"
                  "regroup bench decode --model runs/mha --sweep --dtype bf16"});
  bench.declare_on(line);
  if (!line.parse(arguments)) return ExitCode::kDone;
  const auto config = benched_config(bench.options, line, "bench decode");
  return bench.sweeps ? bench.sweep(line, config) : bench.measure(config);
}

}  // namespace regroup
