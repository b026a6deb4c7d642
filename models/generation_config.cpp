#include "models/generation_config.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

namespace regroup {
namespace {

namespace fs = std::filesystem;

/// Other settings that change the tokens that transformers generates, and the value with which they
/// do not, besides null, false, 0 and an empty list.
const std::vector<std::pair<const char*, double>> kNotApplied{
    {"num_beams", 1},
    {"penalty_alpha", 0},
    {"typical_p", 1},
    {"epsilon_cutoff", 0},
    {"eta_cutoff", 0},
    {"top_h", 0},
    {"no_repeat_ngram_size", 0},
    {"encoder_repetition_penalty", 1},
    {"bad_words_ids", 0},
    {"force_words_ids", 0},
    {"sequence_bias", 0},
    {"suppress_tokens", 0},
    {"begin_suppress_tokens", 0},
    {"forced_bos_token_id", -1},  // an id, 0 too
    {"forced_eos_token_id", -1},
    {"exponential_decay_length_penalty", 0},
    {"min_length", 0},
    {"min_new_tokens", 0},
    {"guidance_scale", 1},
    {"watermarking_config", 0},
};

bool is_neutral(const nlohmann::json& value, double neutral) {
  if (value.is_number()) return value.get<double>() == neutral;
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

std::vector<std::string> settings_not_applied(const JsonObject& json) {
  std::vector<std::string> found;
  for (const auto& [key, neutral] : kNotApplied) {
    if (!json.has(key) || is_neutral(json.raw(key), neutral)) continue;
    found.push_back(c10::str(key, " = ", json.raw(key).dump()));
  }
  return found;
}

/// A number of a range, or nullopt where the key is absent.
std::optional<double> number_between(const JsonObject& json, const char* key, double min,
                                     double max) {
  const auto value = json.find_number(key);
  if (value && !(*value >= min && *value <= max))
    json.refuse(key, c10::str("a number from ", min, " to ", max));
  return value;
}

Sampling sampling_of(const JsonObject& json) {
  Sampling sampling;
  const auto temperature = number_between(json, "temperature", 0, 1e6);
  if (json.find_boolean("do_sample").value_or(false)) {
    sampling.temperature = temperature.value_or(1);
  }
  if (const auto top_k = json.find_number("top_k"))
    sampling.top_k = static_cast<int64_t>(std::clamp(*top_k, 0.0, 1e9));
  if (sampling.top_k && *sampling.top_k < 1)
    sampling.top_k.reset();  // 0 in transformers, and -1 in vLLM: all
  if (const auto top_p = number_between(json, "top_p", 0, 1))
    sampling.top_p = std::max(*top_p, 1e-9);  // 0: the most likely token
  sampling.min_p = number_between(json, "min_p", 0, 1);
  sampling.repetition_penalty = number_between(json, "repetition_penalty", 0.01, 100).value_or(1);
  return sampling;
}

std::vector<std::string> stop_texts_of(const JsonObject& json) {
  if (!json.has("stop_strings")) return {};
  if (json.raw("stop_strings").is_array()) return json.strings("stop_strings");
  return {json.string("stop_strings")};
}

}  // namespace

GenerationConfig read_generation_config(const fs::path& model_folder) {
  GenerationConfig config;
  const auto model = JsonObject::find_file(model_folder / "config.json");
  const auto own = JsonObject::find_file(model_folder / "generation_config.json");
  if (const auto& said = own ? own : model) {  // files before generation_config.json
    config.sampling = sampling_of(*said);
    config.stop_texts = stop_texts_of(*said);
    config.not_applied = settings_not_applied(*said);
  }
  if (const auto& said = own && own->has("eos_token_id") ? own : model)
    config.eos_ids = eos_ids_of(*said);
  return config;
}

std::vector<int64_t> eos_ids_of(const JsonObject& json) {
  if (!json.has("eos_token_id")) return {};
  if (json.raw("eos_token_id").is_array()) return json.integers("eos_token_id");
  return {json.integer("eos_token_id")};
}

}  // namespace regroup
