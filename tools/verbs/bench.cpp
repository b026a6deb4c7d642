#include <iostream>

#include "framework/errors/error.h"
#include "framework/text/human.h"
#include "models/flops.h"
#include "tools/command_line/processes.h"
#include "tools/verbs/bench_setup.h"
#include "tools/verbs/verbs.h"
#include "trainers/machine.h"
#include "trainers/run_setup.h"
#include "trainers/speed.h"

namespace regroup {
namespace {

using Json = nlohmann::ordered_json;

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
