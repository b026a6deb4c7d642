#include "tools/verbs/bench_setup.h"

#include <iostream>

#include "framework/errors/error.h"
#include "framework/files/json.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/model_folder.h"
#include "trainers/machine.h"
#include "trainers/run_setup.h"
#include "trainers/speed.h"

namespace regroup {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kWeightSeed = 0;

}  // namespace

void BenchOptions::declare_on(CommandLine& line) {
  declare(schema, config);
  line.add_config(&schema);
  line.add("model", &model, "model to take the shape from, instead of a config").shown_as("MODEL");
  line.add("kv-heads", &n_kv_head, "K/V heads instead of the model's, one number or one a layer",
           at_least(1));
  compute.declare_on(line);
  line.add_json(&json_file);
  line.add_quiet();
}

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

}  // namespace regroup
