#include <c10/util/StringUtil.h>

#include <optional>

#include "framework/errors/error.h"
#include "models/families/family.h"
#include "models/families/shared_fields.h"

namespace regroup {
namespace {

/// True where name is pattern with a layer's number for "{}".
bool matches(const std::string& pattern, const std::string& name) {
  const auto place = pattern.find("{}");
  if (place == std::string::npos) return pattern == name;
  const auto before = pattern.substr(0, place), after = pattern.substr(place + 2);
  if (name.size() <= before.size() + after.size() || !name.starts_with(before) ||
      !name.ends_with(after)) {
    return false;
  }
  const auto layer = name.substr(place, name.size() - before.size() - after.size());
  return layer.find_first_not_of("0123456789") == std::string::npos;
}

ConfigFields written_fields(const Family& family, DecoderConfig config) {
  auto fields = ConfigFields::writing();
  family.fields(fields, config);
  return fields;
}

std::string known_names(std::string Family::*field) {
  std::vector<std::string> names;
  for (const auto& family : families()) names.push_back(family.*field);
  return c10::Join(", ", names);
}

/// model_type decides, as in transformers. A class for another task has another head.
void check_architectures(const JsonObject& json, const Family& form) {
  for (const auto& name : json.find_strings("architectures").value_or(std::vector<std::string>())) {
    const bool is_language_model =
        name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel") || name.ends_with("Model");
    if (!is_language_model) {
      json.refuse("architectures",
                  c10::str("[\"", form.architecture, "\"], a language model with its head"));
    }
  }
}

void refuse_quantized(const JsonObject& json) {
  const auto quantization = json.find_object("quantization_config");
  if (!quantization) return;
  throw Error(json.where(),
              c10::str("quantization_config says that the weights are quantized (",
                       quantization->find_string("quant_method").value_or("unknown method"),
                       "), and Regroup reads those of the model itself"),
              "Take the model that is not quantized, or dequantize it.");
}

}  // namespace

const TensorRule& Family::rule(Role role, const DecoderConfig& config) const {
  for (const auto& tensor : tensors) {
    if (tensor.holds(role) && (!tensor.applies || tensor.applies(config))) return tensor;
  }
  TORCH_CHECK(false, "family ", name, " has no tensor for role ", static_cast<int>(role));
}

std::vector<int64_t> StoredTensor::shape() const {
  if (head) return {parameters.front().spec.shape.back()};
  std::vector<std::vector<int64_t>> shapes;
  for (const auto& parameter : parameters) shapes.push_back(parameter.spec.shape);
  return rule->packed_shape(shapes);
}

std::vector<StoredTensor> stored_tensors(const Family& family, const DecoderConfig& config) {
  std::vector<StoredTensor> stored;
  for (const auto& block : decoder_blocks(config)) {
    const size_t first_of_block = stored.size();
    for (const auto& parameter : block.parameters) {
      const auto& rule = family.rule(parameter.id.role, config);
      if (rule.by_head) {
        for (int64_t head = 0; head < parameter.spec.shape.front(); ++head)
          stored.push_back({rule.tensor_name(parameter.id, head), &rule, {parameter}, head});
        continue;
      }
      const auto name = rule.tensor_name(parameter.id);
      const auto known =
          std::find_if(stored.begin() + static_cast<std::ptrdiff_t>(first_of_block), stored.end(),
                       [&](const StoredTensor& other) { return other.name == name; });
      if (known != stored.end()) {
        known->parameters.push_back(parameter);
      } else {
        stored.push_back({name, &rule, {parameter}});
      }
    }
  }
  return stored;
}

DecoderConfig read_config(const Family& family, const JsonObject& json) {
  DecoderConfig config;
  auto fields = ConfigFields::reading(json);
  family.fields(fields, config);
  refuse_quantized(json);
  fields.expect("per_layer_config", nullptr);
  fields.warn_of_unknown(harmless_keys());
  return config;
}

nlohmann::ordered_json write_config(const Family& family, const DecoderConfig& config) {
  // Where K/V heads differ by layer the file says their multiple; where the class has no field for
  // them, those of the multi-head model. The true counts stand under "regroup".
  auto multiple = config, multi_head = config;
  for (auto& layer : multiple.layers) layer.attention.n_kv_head = config.kv_head_multiple();
  for (auto& layer : multi_head.layers) layer.attention.n_kv_head = layer.attention.n_head;
  for (const auto& said : {config, multiple, multi_head}) {
    const auto fields = written_fields(family, said);
    if (fields.conflicts().empty()) return fields.written();
  }
  throw Error(
      family.architecture,
      "cannot express this model: " + c10::Join(", ", written_fields(family, config).conflicts()),
      "Take a family that has these.");
}

bool expresses(const Family& family, const DecoderConfig& config) {
  return written_fields(family, config).conflicts().empty();
}

const Family& deployable_form(const Family& family, const DecoderConfig& config) {
  return expresses(family, config) ? family : regroup_family();
}

DecoderConfig new_config(const Family& family, DecoderConfig sizes) {
  auto fields = ConfigFields::for_new_model();
  family.fields(fields, sizes);
  return sizes;
}

bool has_kv_head_field(const Family& family) {
  LayerConfig layer;
  layer.attention.n_head = layer.attention.n_kv_head = 4;
  layer.attention.head_dim = 8;
  layer.mlp.d_ff = 64;
  DecoderConfig sizes;
  sizes.d_model = 32;
  sizes.vocab_size = 64;
  sizes.layers = {layer, layer};
  auto grouped = new_config(family, sizes);
  grouped.set_n_kv_head({2, 2});
  return expresses(family, grouped);
}

std::string Family::base() const {
  for (const auto& rule : tensors) {
    if (rule.holds(Role::kEmbedding)) return rule.module.substr(0, rule.module.find('.') + 1);
  }
  return "";
}

const StoredBuffer* Family::buffer(const std::string& tensor) const {
  for (const auto& buffer : buffers) {
    if (matches(buffer.name, tensor)) return &buffer;
  }
  return nullptr;
}

const std::vector<Family>& families() {
  static const std::vector<Family> all{
      llama_family(),    mistral_family(),    qwen2_family(),  qwen3_family(),    olmo_family(),
      olmo2_family(),    gemma_family(),      gemma2_family(), phi_family(),      phi3_family(),
      stablelm_family(), starcoder2_family(), gpt2_family(),   gpt_neox_family(), opt_family(),
      gptj_family(),     bloom_family(),      falcon_family(), mpt_family()};
  return all;
}

const Family& form_of(const JsonObject& json) {
  const auto model_type = json.string("model_type");
  const auto* form = model_type == regroup_family().model_type ? &regroup_family() : nullptr;
  for (const auto& family : families()) {
    if (family.model_type == model_type) form = &family;
  }
  if (form) {
    check_architectures(json, *form);
    return *form;
  }
  throw Error(json.where(),
              c10::str("model_type \"", model_type, "\" is not a family that Regroup knows"),
              c10::str("Known: ", known_names(&Family::model_type), "."));
}

const Family& family_of(const JsonObject& json) {
  const auto& form = form_of(json);
  if (&form != &regroup_family()) return form;
  const auto name = json.string("family");
  for (const auto& family : families()) {
    if (family.name == name) return family;
  }
  json.refuse("family", c10::str("one of ", known_names(&Family::name)));
}

const Family& family_named(const std::string& name) {
  for (const auto& family : families()) {
    if (family.name == name) return family;
  }
  throw request_error("model.family", c10::str("\"", name, "\" is not a family that Regroup knows"),
                      c10::str("Known: ", known_names(&Family::name), "."));
}

}  // namespace regroup
