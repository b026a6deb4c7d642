#include "models/provenance.h"

#include <nlohmann/json.hpp>

namespace regroup {

nlohmann::ordered_json Provenance::to_json(const DecoderConfig& config) const {
  nlohmann::ordered_json json;
  json["n_kv_head"] = config.n_kv_head();
  if (original) {
    json["original"] = {
        {"name", original->name}, {"hash", original->hash}, {"n_kv_head", original->n_kv_head}};
    if (!original->license.empty()) json["original"]["license"] = original->license;
    json["method"] = conversion.method;
    json["grouping"] = conversion.grouping;
    json["refit"] = conversion.refit;
    if (conversion.kv_budget) json["kv_budget"] = *conversion.kv_budget;
    if (!conversion.calibration.empty()) {
      json["calibration"] = conversion.calibration;
      json["calibration_tokens"] = conversion.calibration_tokens;
    }
  }
  if (pretrain_steps) json["pretrain_steps"] = *pretrain_steps;
  json["uptrain_steps"] = uptrain_steps;
  json["tokens_seen"] = tokens_seen;
  json["pretrain_flops"] = pretrain_flops;
  json["uptrain_flops"] = uptrain_flops;
  return json;
}

Provenance Provenance::from_json(const JsonObject& json) {
  Provenance provenance;
  const auto ours = json.find_object("regroup");
  if (!ours) return provenance;
  constexpr IntegerRange kCount{0, int64_t{1} << 60};
  if (const auto original = ours->find_object("original")) {
    provenance.original =
        Original{original->string("name"), original->string("hash"),
                 original->find_integers("n_kv_head").value_or(std::vector<int64_t>{})};
    if (const auto license = original->find_object("license")) {
      for (const auto& key : license->keys())
        provenance.original->license[key] = license->string(key);
    }
  }
  provenance.conversion = {
      .method = ours->find_string("method").value_or(""),
      .grouping = ours->find_string("grouping").value_or("neighbours"),
      .refit = ours->find_string("refit").value_or("none"),
      .kv_budget = ours->find_number("kv_budget"),
      .calibration = ours->find_string("calibration").value_or(""),
      .calibration_tokens = ours->find_integer("calibration_tokens", kCount).value_or(0)};
  provenance.pretrain_steps = ours->find_integer("pretrain_steps", kCount);
  provenance.uptrain_steps = ours->find_integer("uptrain_steps", kCount).value_or(0);
  provenance.tokens_seen = ours->find_integer("tokens_seen", kCount).value_or(0);
  provenance.pretrain_flops = ours->find_number("pretrain_flops").value_or(0);
  provenance.uptrain_flops = ours->find_number("uptrain_flops").value_or(0);
  return provenance;
}

}  // namespace regroup
