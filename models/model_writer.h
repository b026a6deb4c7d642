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

#include "framework/files/tensor_folder.h"
#include "models/config/decoder_config.h"
#include "models/decoder.h"
#include "models/families/family.h"
#include "models/provenance.h"
#include "models/tokenizer_files.h"

namespace regroup {

constexpr int64_t kDefaultShardBytes = 5'000'000'000;

/// A parameter to write. `values` makes it when its turn comes.
struct ParameterSource {
  ParameterId id;
  std::function<torch::Tensor()> values;
  std::optional<torch::ScalarType> dtype = std::nullopt;  // in the file; default: the model's
  int writer = 0;                                         // the rank that writes it
};

/// What a model folder says about its weights. dtype: the default of the weights in the file. form:
/// the family whose names and config the files have.
struct ModelDescription {
  const Family* family;
  DecoderConfig config;
  torch::ScalarType dtype;
  Provenance provenance;
  TextHandling text;
  const Family* form = family;
};

/// Writes config.json and the tokenizer's files into an existing folder.
void write_description(const std::filesystem::path& folder, const ModelDescription& description);

/// Writes a model into an existing folder. Where the parameters have several writers, all of them
/// call this: each writes its own parameters, rank 0 also what write_description writes. -> the
/// names of the weight files that this writer wrote.
std::vector<std::string> write_model(const std::filesystem::path& folder,
                                     const ModelDescription& description,
                                     const std::vector<ParameterSource>& parameters,
                                     int64_t max_shard_bytes, int writer = 0);

/// The tensors of the model's files. description and parameters must outlive them.
std::vector<TensorSource> tensor_sources(const ModelDescription& description,
                                         const std::vector<ParameterSource>& parameters);

/// The decoder's parameters as sources, in the decoder's order.
std::vector<ParameterSource> parameter_sources(const Decoder& decoder);

}  // namespace regroup
