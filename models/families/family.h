// models/families/family.h: one Hugging Face architecture as data: config.json to DecoderConfig and
// back, and the names of its tensors. One table is read in both directions.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "framework/files/json.h"
#include "models/config/decoder_config.h"
#include "models/config/decoder_parameters.h"
#include "models/families/config_fields.h"
#include "models/families/tensor_rule.h"

namespace regroup {

/// A tensor that some files store although config.json determines it. The decoder computes it.
struct StoredBuffer {
  std::string name;  // in the file; "{}" as above
  /// Whether the file's values are those that the decoder computes.
  bool (*agrees)(const DecoderConfig& config, const at::Tensor& stored);
};

struct Family {
  std::string name;          // of our configs: "llama"
  std::string model_type;    // of config.json
  std::string architecture;  // of config.json
  std::string covers = "";   // what sets it apart, in a few words
  /// The fields of config.json that describe the decoder, each said once for both directions.
  void (*fields)(ConfigFields& fields, DecoderConfig& config);
  std::vector<TensorRule> tensors;
  std::vector<StoredBuffer> buffers = {};
  /// Python of the class, where transformers has none; it travels beside the weights.
  struct Code {
    std::string file;
    std::string_view text;
  };
  Code code = {};

  /// The rule of the tensor that holds a role in a model. Throws c10::Error if there is none.
  const TensorRule& rule(Role role, const DecoderConfig& config) const;
  /// The prefix of all names but the head's, which files of the class without a head lack:
  /// "model.".
  std::string base() const;
  /// The buffer that a tensor of the family's files is; null where it is none.
  const StoredBuffer* buffer(const std::string& tensor) const;
};

/// Reads the decoder that a config.json describes. Throws Error for a value that is missing,
/// malformed, or changes the computation in a way that the decoder does not implement; a warning
/// names unknown fields.
DecoderConfig read_config(const Family& family, const JsonObject& json);
/// The fields of config.json that describe the decoder, in both dialects (transformers 4 and 5).
/// Throws Error where the architecture cannot express it.
nlohmann::ordered_json write_config(const Family& family, const DecoderConfig& config);
/// True where the architecture's own class can hold the decoder: write_config() says all of it.
bool expresses(const Family& family, const DecoderConfig& config);
/// The family in whose form other programs load the model: its own, or regroup_family() where its
/// class cannot hold it.
const Family& deployable_form(const Family& family, const DecoderConfig& config);
/// A new model: `sizes` with the architecture's own values for what it leaves open.
DecoderConfig new_config(const Family& family, DecoderConfig sizes);

/// A tensor of a model's files and the parameters that are packed in it.
struct StoredTensor {
  std::string name;
  const TensorRule* rule;
  std::vector<DecoderParameter> parameters;
  std::optional<int64_t> head = std::nullopt;  // the row of the one parameter that it is

  std::vector<int64_t> shape() const;
};
/// The tensors of a model's files, in the decoder's order. family must outlive them.
std::vector<StoredTensor> stored_tensors(const Family& family, const DecoderConfig& config);

/// All families. Adding one: a file beside this, and a line in registry.cpp.
const std::vector<Family>& families();
/// The family that a config.json names by its model_type, regroup_family() among them. Throws Error
/// with the known ones.
const Family& form_of(const JsonObject& json);
/// The family whose model it is: that of its form, or the one that regroup_family()'s form names.
const Family& family_of(const JsonObject& json);
/// True where the architecture's own class has a field for K/V heads: it can hold fewer of them
/// than query heads.
bool has_kv_head_field(const Family& family);
/// The family of a config key. Throws a request Error with the known ones.
const Family& family_named(const std::string& name);

/// Any decoder as it stands; no architecture of families().
const Family& regroup_family();

Family bloom_family();
Family falcon_family();
Family gemma_family();
Family gemma2_family();
Family gpt2_family();
Family gpt_neox_family();
Family gptj_family();
Family llama_family();
Family mistral_family();
Family mpt_family();
Family olmo_family();
Family olmo2_family();
Family opt_family();
Family phi_family();
Family phi3_family();
Family qwen2_family();
Family qwen3_family();
Family stablelm_family();
Family starcoder2_family();

}  // namespace regroup
