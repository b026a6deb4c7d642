// models/provenance.h: what made a model, as config.json records it under the key "regroup".
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "framework/files/json.h"
#include "models/config/decoder_config.h"

namespace regroup {

/// What made a model: the key "regroup" of its config.json.
struct Provenance {
  struct Original {
    std::string name;
    std::string hash;                                 // of its weights
    std::vector<int64_t> n_kv_head;                   // one a layer, before conversion
    std::map<std::string, std::string> license = {};  // of its card
  };
  /// How its heads were pooled; names and values are those of [convert].
  struct Conversion {
    std::string method, grouping = "neighbours", refit = "none";
    std::optional<double> kv_budget;
    std::string calibration;  // fingerprint of the token data; empty: none was used
    int64_t calibration_tokens = 0;
    bool operator==(const Conversion&) const = default;
  };
  std::optional<Original> original;  // absent: the model was not converted
  Conversion conversion;
  std::optional<int64_t> pretrain_steps;  // of the original, where known
  int64_t uptrain_steps = 0;
  int64_t tokens_seen = 0;  // in training by Regroup, pretraining included
  double pretrain_flops = 0;
  double uptrain_flops = 0;  // conversion, teacher and training since the original

  /// The value of "regroup". config: the present model's.
  nlohmann::ordered_json to_json(const DecoderConfig& config) const;
  /// Reads a config.json; one without the key gives an empty record.
  static Provenance from_json(const JsonObject& json);
};

}  // namespace regroup
