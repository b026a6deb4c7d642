// trainers/evaluation.h: models side by side: quality on held-out text, cost of inference, cost of
// training.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "framework/distributed/world.h"

namespace regroup {

struct EvaluationRequest {
  struct Model {
    std::filesystem::path path;
    std::string name;  // in tables
  };
  std::vector<Model> models;
  std::optional<std::filesystem::path> reference;  // agreement and KL are against this one
  std::filesystem::path data;
  std::string split = "val";
  std::optional<std::filesystem::path> choices;
  torch::TensorOptions options;  // dtype and device that the models run in
};

/// One JSON object: {"data": ..., "models": [{"model", "name", "n_kv_head", "parameters", "tokens",
/// "loss", "perplexity", "bits_per_byte", "choice_accuracy", "agreement", "kl",
/// "kv_bytes_per_token", "decode_tokens_per_s", "decode_spread", "compute_fraction"}]}; what was
/// not asked for or is unknown is null, and so is the speed that measure_speeds gives. All
/// processes of the world call it alike, and it is divided over them.
nlohmann::ordered_json evaluate(const EvaluationRequest& request, World& world);

/// Fills in decode_tokens_per_s of the models, {"1": tokens/s at batch 1, "16": ...}, and
/// decode_spread. The models take turns in rounds; medians over the rounds, and (largest -
/// smallest) / median. Measured by this process alone, each model on one device.
void measure_speeds(nlohmann::ordered_json& evaluation, const EvaluationRequest& request);

/// Prints an evaluation as a table for people.
std::string evaluation_table(const nlohmann::ordered_json& evaluation);

}  // namespace regroup
