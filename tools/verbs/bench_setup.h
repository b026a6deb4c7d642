// tools/verbs/bench_setup.h: what `bench train` and `bench decode` share.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "tools/command_line/command_line.h"
#include "tools/command_line/compute.h"
#include "trainers/train_config.h"

namespace regroup {

/// Options of both. Weights are random, for a MODEL too: speed does not depend on their values.
struct BenchOptions {
  std::optional<std::filesystem::path> model;
  std::vector<int64_t> n_kv_head;  // empty: the model's
  Compute compute;
  std::optional<std::filesystem::path> json_file;
  TrainConfig config;
  ConfigSchema schema;

  void declare_on(CommandLine& line);
};

/// The model of --model or --config with the K/V heads of --kv-heads. verb: "bench train".
DecoderConfig benched_config(const BenchOptions& options, const CommandLine& line,
                             const std::string& verb);

/// Refuses a length beyond the model's context; what: its option.
void check_length(int64_t length, const std::string& what, const DecoderConfig& config);

Decoder random_decoder(const DecoderConfig& config, const BenchOptions& options,
                       const World& world);

/// Adds the fields about model and machine.
void add_setting(const Decoder& model, const BenchOptions& options, int64_t batch,
                 nlohmann::ordered_json& json);

/// Adds whether other processes slowed the measurement down, and warns where they did.
void add_load(double busy_elsewhere, int64_t n_processes, nlohmann::ordered_json& json);

/// Prints the sentence with the setting, and writes --json.
void report(const std::string& sentence, const nlohmann::ordered_json& json,
            const BenchOptions& options);

ExitCode bench_decode(const std::vector<std::string>& arguments);

}  // namespace regroup
