// models/families/family.h: one Hugging Face architecture as data: config.json to DecoderConfig and
// back, and the names of its tensors. One table is read in both directions.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "framework/files/json.h"
#include "models/decoder_config.h"

namespace regroup {

/// A parameter's name in the decoder and in the family's files; "{}" stands for the layer's number.
struct TensorName {
  std::string ours, theirs;
};

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
  /// Reads config.json. Throws Error for a value that is missing, malformed, or changes the
  /// computation in a way that the decoder does not implement; a warning names unknown fields.
  DecoderConfig (*read_config)(const JsonObject& json);
  /// The fields of config.json that describe the decoder, in both dialects (transformers 4 and 5).
  nlohmann::ordered_json (*write_config)(const DecoderConfig& config);
  std::vector<TensorName> tensors;
  std::vector<StoredBuffer> buffers;

  /// The file's name for a parameter of ours.
  std::string file_name(const std::string& parameter) const;
  /// The buffer that a tensor of the family's files is; null where it is none.
  const StoredBuffer* buffer(const std::string& tensor) const;
};

/// All families. Adding one: a file beside this, and a line in registry.cpp.
const std::vector<Family>& families();
/// The family that a config.json names by its model_type. Throws Error with the known ones.
const Family& family_of(const JsonObject& json);
/// The family of a config key. Throws a request Error with the known ones.
const Family& family_named(const std::string& name);

Family llama_family();

}  // namespace regroup
