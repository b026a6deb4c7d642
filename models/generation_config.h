// models/generation_config.h: how a model folder wants to be continued.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "framework/files/json.h"
#include "models/generate.h"

namespace regroup {

struct GenerationConfig {
  std::vector<int64_t> eos_ids;  // that end a continuation
  /// do_sample, temperature, top_k, top_p, min_p and repetition_penalty. Greedy without do_sample.
  Sampling sampling;
  std::vector<std::string> stop_texts;
  /// Settings of the file that change what transformers generates and that generate() does not
  /// have, as "no_repeat_ngram_size = 3".
  std::vector<std::string> not_applied;
};

/// Reads generation_config.json, or where it is missing the same keys of config.json. Without
/// eos_token_id there, the eos ids are those of config.json. Throws Error,
/// which names file and key, for a value that means nothing.
GenerationConfig read_generation_config(const std::filesystem::path& model_folder);

/// eos_token_id, a number or a list; empty where it is absent.
std::vector<int64_t> eos_ids_of(const JsonObject& json);

}  // namespace regroup
