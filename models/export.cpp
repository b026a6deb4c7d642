#include "models/export.h"

#include <torch/types.h>

#include <fstream>
#include <sstream>

#include "framework/errors/error.h"
#include "framework/files/hdf5_file.h"
#include "framework/tensors/dtype.h"
#include "models/finite.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

DecoderConfig exported_config(const DecoderConfig& source, ExportLayout layout) {
  DecoderConfig config = source;
  if (layout == ExportLayout::kExpanded) {
    config.n_kv_head.assign(config.n_kv_head.size(), source.kv_head_multiple());
  }
  return config;
}

/// weight: [n * head_dim, d_model] -> [n * times * head_dim, d_model], copies of a head next to
/// each other, so that every query head reads the same K/V head as before.
Tensor repeat_heads(const Tensor& weight, int64_t head_dim, int64_t times) {
  return weight.unflatten(0, {-1, head_dim}).repeat_interleave(times, 0).flatten(0, 1);
}

/// Throws Error for values that become infinite.
Tensor converted(const Tensor& values, torch::ScalarType dtype, const std::string& name) {
  if (values.scalar_type() == dtype) return values;
  const auto result = values.to(dtype);
  // In float64, because LibTorch cannot ask 8-bit floats whether they are finite.
  const auto overflowed =
      result.to(torch::kFloat64).isinf().logical_and(values.to(torch::kFloat64).isfinite());
  if (!overflowed.any().item<bool>()) return result;
  throw Error(
      name,
      c10::str(overflowed.sum().item<int64_t>(), " values are too large for ",
               dtype_info(dtype).short_name, ", the largest is ",
               values.to(torch::kFloat64).masked_select(overflowed).abs().max().item<double>()),
      "Export as bf16 or fp32.");
}

ParameterSource exported_parameter(const ModelFolder& source, const ExportPlan& plan,
                                   const DecoderConfig& target, const ParameterSpec& parameter,
                                   int64_t layer) {
  const bool is_kv =
      parameter.name.ends_with(".k_proj.weight") || parameter.name.ends_with(".v_proj.weight");
  const auto index = static_cast<size_t>(layer);
  const int64_t times = is_kv ? target.n_kv_head[index] / source.config().n_kv_head[index] : 1;
  const auto dtype = plan.dtype.value_or(source.parameter_dtype(parameter.name));
  return {parameter.name,
          [&source, name = parameter.name, dtype, head_dim = target.head_dim, times] {
            const auto values =
                converted(finite_parameter(source, name), dtype, source.family().file_name(name));
            return times == 1 ? values : repeat_heads(values, head_dim, times);
          },
          dtype};
}

std::vector<ParameterSource> exported_parameters(const ModelFolder& source, const ExportPlan& plan,
                                                 const DecoderConfig& target) {
  std::vector<ParameterSource> parameters;
  const auto blocks = decoder_blocks(target);
  for (size_t block = 0; block < blocks.size(); ++block) {
    for (const auto& parameter : blocks[block].parameters) {
      parameters.push_back(
          exported_parameter(source, plan, target, parameter, static_cast<int64_t>(block) - 1));
    }
  }
  return parameters;
}

std::string file_text(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

void write_hdf5(const fs::path& folder, const Family& family,
                const std::vector<ParameterSource>& parameters) {
  auto file = Hdf5File::create(folder / "model.h5");
  for (const auto& parameter : parameters)
    file.write("/" + family.file_name(parameter.name), parameter.values());
  file.set_attribute("/", "config.json", file_text(folder / "config.json"));
  file.close();
}

}  // namespace

void check_export(const ModelFolder& source, const ExportPlan& plan) {
  const auto& config = source.config();
  if (plan.layout == ExportLayout::kExpanded || config.uniform_kv_heads()) return;
  throw request_error(source.path().string(),
                      c10::str("K/V heads differ between layers (", kv_heads_text(config.n_kv_head),
                               "), which ", source.family().architecture, " cannot express"),
                      c10::str("Take --layout expanded, which repeats them up to ",
                               config.kv_head_multiple(), " in every layer."));
}

void export_model(const ModelFolder& source, const ExportPlan& plan, const fs::path& folder) {
  check_export(source, plan);
  const auto config = exported_config(source.config(), plan.layout);
  const ModelDescription description{&source.family(), config, plan.dtype.value_or(source.dtype()),
                                     source.provenance(), source.text()};
  const auto parameters = exported_parameters(source, plan, config);
  if (plan.format == ExportFormat::kHuggingFace) {
    write_model(folder, description, parameters, plan.max_shard_bytes);
    return;
  }
  write_description(folder, description);
  write_hdf5(folder, source.family(), parameters);
}

}  // namespace regroup
