#include "models/model_writer.h"

#include <map>
#include <nlohmann/json.hpp>

#include "framework/files/json.h"
#include "framework/files/tensor_folder.h"
#include "framework/tensors/dtype.h"

namespace regroup {

namespace fs = std::filesystem;

void write_description(const fs::path& folder, const ModelDescription& description) {
  const auto& [family, config, dtype, provenance, text] = description;
  nlohmann::ordered_json json;
  json["architectures"] = {family->architecture};
  json["model_type"] = family->model_type;
  json.update(family->write_config(config));
  json.update(write_tokenizer_files(folder, text, config.max_seq_len));
  json["dtype"] = dtype_info(dtype).hf_name;
  json["torch_dtype"] = dtype_info(dtype).hf_name;
  json["regroup"] = provenance.to_json(config);
  write_json_file(folder / "config.json", json);
}

std::vector<std::string> write_model(const fs::path& folder, const ModelDescription& description,
                                     const std::vector<ParameterSource>& parameters,
                                     int64_t max_shard_bytes, int writer) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& block : decoder_blocks(description.config)) {
    for (const auto& parameter : block.parameters) shapes[parameter.name] = parameter.shape;
  }
  std::vector<TensorSource> sources;
  for (const auto& parameter : parameters) {
    const auto dtype = parameter.dtype.value_or(description.dtype);
    const auto values = [&parameter, dtype] { return parameter.values().to(dtype).contiguous(); };
    sources.push_back({description.family->file_name(parameter.name), dtype,
                       shapes.at(parameter.name), values, parameter.writer});
  }
  if (writer == 0) write_description(folder, description);
  return write_tensor_folder(folder, sources, max_shard_bytes, writer);
}

std::vector<ParameterSource> parameter_sources(const Decoder& decoder) {
  std::vector<ParameterSource> sources;
  for (const auto& block : decoder.blocks()) {
    for (size_t i = 0; i < block.parameters().size(); ++i) {
      sources.push_back({block.parameters()[i].name, [&block, i] { return block.parameter(i); }});
    }
  }
  return sources;
}

}  // namespace regroup
