#include "models/model_writer.h"

#include <map>
#include <nlohmann/json.hpp>

#include "framework/files/atomic_write.h"
#include "framework/files/json.h"
#include "framework/files/tensor_folder.h"
#include "framework/tensors/dtype.h"

namespace regroup {

namespace fs = std::filesystem;

void write_description(const fs::path& folder, const ModelDescription& description) {
  const auto& [family, config, dtype, provenance, text, form] = description;
  nlohmann::ordered_json json;
  json["architectures"] = {form->architecture};
  json["model_type"] = form->model_type;
  if (form != family) json["family"] = family->name;
  json.update(write_config(*form, config));
  json.update(write_tokenizer_files(folder, text, config.max_seq_len));
  json["dtype"] = dtype_info(dtype).hf_name;
  json["torch_dtype"] = dtype_info(dtype).hf_name;
  json["regroup"] = provenance.to_json(config);
  write_json_file(folder / "config.json", json);
  if (!form->code.file.empty()) write_file_atomically(folder / form->code.file, form->code.text);
}

std::vector<TensorSource> tensor_sources(const ModelDescription& description,
                                         const std::vector<ParameterSource>& parameters) {
  std::map<std::string, const ParameterSource*> by_name;
  for (const auto& parameter : parameters) by_name[parameter.id.name()] = &parameter;
  std::vector<TensorSource> sources;
  for (const auto& tensor : stored_tensors(*description.form, description.config)) {
    std::vector<const ParameterSource*> parts;
    for (const auto& parameter : tensor.parameters)
      parts.push_back(by_name.at(parameter.spec.name));
    const auto dtype = parts.front()->dtype.value_or(description.dtype);
    const auto values = [parts, dtype, rule = tensor.rule, head = tensor.head,
                         config = &description.config] {
      std::vector<torch::Tensor> made;
      for (const auto* part : parts) made.push_back(part->values().to(dtype));
      if (head) return made.front()[*head].contiguous();
      return rule->packed(made, *config, parts.front()->id).contiguous();
    };
    sources.push_back({tensor.name, dtype, tensor.shape(), values, parts.front()->writer});
  }
  return sources;
}

std::vector<std::string> write_model(const fs::path& folder, const ModelDescription& description,
                                     const std::vector<ParameterSource>& parameters,
                                     int64_t max_shard_bytes, int writer) {
  if (writer == 0) write_description(folder, description);
  return write_tensor_folder(folder, tensor_sources(description, parameters), max_shard_bytes,
                             writer);
}

std::vector<ParameterSource> parameter_sources(const Decoder& decoder) {
  std::vector<ParameterSource> sources;
  for (size_t block = 0; block < decoder.blocks().size(); ++block) {
    const auto& parameters = decoder.block_specs()[block].parameters;
    const auto& values = decoder.blocks()[block];
    for (size_t i = 0; i < parameters.size(); ++i)
      sources.push_back({parameters[i].id, [&values, i] { return values.parameter(i); }});
  }
  return sources;
}

}  // namespace regroup
