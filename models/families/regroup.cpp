// Any decoder as it stands, under our own names: for models whose architecture's class in
// transformers cannot hold their K/V heads. modeling_regroup.py, which travels beside the weights,
// computes it there.
#include <c10/util/StringUtil.h>

#include <algorithm>

#include "models/config/decoder_json.h"
#include "models/families/family.h"
#include "models/families/modeling_regroup.h"

namespace regroup {
namespace {

using Json = nlohmann::json;

/// decoder_json() with each kind of layer once: "layers" says for each layer which of "layer_kinds"
/// it is.
Json with_layer_kinds(Json decoder) {
  auto kinds = Json::array(), indices = Json::array();
  for (const auto& layer : decoder.at("layers")) {
    const auto known = std::find(kinds.begin(), kinds.end(), layer);
    indices.push_back(known - kinds.begin());
    if (known == kinds.end()) kinds.push_back(layer);
  }
  decoder["layers"] = indices;
  decoder["layer_kinds"] = kinds;
  return decoder;
}

/// The inverse.
Json with_layers(const JsonObject& decoder) {
  Json whole = Json::object();
  for (const auto& key : decoder.keys()) whole[key] = decoder.has(key) ? decoder.raw(key) : Json();
  const auto& kinds = decoder.raw("layer_kinds");
  if (!kinds.is_array() || kinds.empty()) decoder.refuse("layer_kinds", "a list of layers");
  auto layers = Json::array();
  for (const auto index : decoder.integers("layers", {0, static_cast<int64_t>(kinds.size()) - 1})) {
    layers.push_back(kinds[static_cast<size_t>(index)]);
  }
  whole["layers"] = layers;
  whole.erase("layer_kinds");
  return whole;
}

/// A size that other programs look for beside the decoder.
void repeated(ConfigFields& fields, const char* key, int64_t value) {
  int64_t stated = value;
  fields.size(key, stated, value);
  if (stated != value) fields.json()->refuse(key, c10::str(value, ", as decoder_config says"));
}

void regroup_fields(ConfigFields& fields, DecoderConfig& config) {
  if (const auto* json = fields.json()) {
    config = decoder_from_json(with_layers(json->object("decoder_config")), json->where());
    json->find_object("auto_map");  // names the code beside it
    if (config.layers.empty()) json->refuse("decoder_config", "a decoder with layers");
  }
  const auto& attention = config.layers.at(0).attention;
  repeated(fields, "vocab_size", config.vocab_size);
  repeated(fields, "hidden_size", config.d_model);
  repeated(fields, "num_hidden_layers", config.n_layer());
  repeated(fields, "num_attention_heads", attention.n_head);
  repeated(fields, "num_key_value_heads", config.kv_head_multiple());
  repeated(fields, "head_dim", attention.head_dim);
  repeated(fields, "max_position_embeddings", config.max_seq_len);
  fields.flag("tie_word_embeddings", config.head.tied, config.head.tied);
  if (!fields.is_writing()) return;
  fields.write("decoder_config", with_layer_kinds(decoder_json(config)));
  fields.write("auto_map", {{"AutoConfig", "modeling_regroup.RegroupConfig"},
                            {"AutoModelForCausalLM", "modeling_regroup.RegroupForCausalLM"}});
}

/// One tensor a parameter, under the parameter's name.
std::vector<TensorRule> own_names() {
  std::vector<TensorRule> rules;
  for (int role = 0; role <= static_cast<int>(Role::kHead); ++role) {
    const ParameterId id{static_cast<Role>(role)};
    rules.push_back({.roles = {id.role}, .module = id.module_pattern()});
  }
  return rules;
}

}  // namespace

const Family& regroup_family() {
  static const Family family{.name = "regroup",
                             .model_type = "regroup",
                             .architecture = "RegroupForCausalLM",
                             .fields = regroup_fields,
                             .tensors = own_names(),
                             .code = {"modeling_regroup.py", kModelingRegroup}};
  return family;
}

}  // namespace regroup
