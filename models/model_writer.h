// models/model_writer.h: writes model folders in Hugging Face layout: config.json, tokenizer files
// and safetensors, through a family's table.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/decoder_config.h"
#include "models/families/family.h"
#include "models/provenance.h"
#include "models/tokenizer_files.h"

namespace regroup {

constexpr int64_t kDefaultShardBytes = 5'000'000'000;

/// A parameter to write: by our name, made when its turn comes.
struct ParameterSource {
  std::string name;
  std::function<torch::Tensor()> values;
  std::optional<torch::ScalarType> dtype =
      std::nullopt;  // in the file; the description's unless told
  int writer = 0;    // which of several processes writes it
};

/// What a model folder holds beside its weights.
struct ModelDescription {
  const Family* family;
  DecoderConfig config;
  torch::ScalarType dtype;
  Provenance provenance;
  TextHandling text;
};

/// Writes config.json and the tokenizer into a folder that exists.
void write_description(const std::filesystem::path& folder, const ModelDescription& description);

/// The same, and the weights; where these have several writers, only this one's, and the first
/// writes all else. -> the names of the files of weights that were written.
std::vector<std::string> write_model(const std::filesystem::path& folder,
                                     const ModelDescription& description,
                                     const std::vector<ParameterSource>& parameters,
                                     int64_t max_shard_bytes, int writer = 0);

/// The decoder's parameters as sources, in the decoder's order.
std::vector<ParameterSource> parameter_sources(const Decoder& decoder);

}  // namespace regroup
