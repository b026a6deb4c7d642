#include "models/export.h"

#include <torch/types.h>

#include <fstream>
#include <sstream>

#include "framework/errors/error.h"
#include "framework/files/hdf5_file.h"
#include "framework/tensors/dtype.h"
#include "models/finite.h"
#include "models/run_layout.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

/// values: [n * head_dim, ...] or [n, head_dim] -> n * times heads, copies of a head next to each
/// other, so that every query head reads the same K/V head as before.
Tensor repeat_heads(const Tensor& values, int64_t n_kv_head, int64_t times) {
  auto shape = values.sizes().vec();
  shape[0] *= times;
  return values.reshape({n_kv_head, -1}).repeat_interleave(times, 0).view(shape);
}

/// values: finite. Throws Error for those that become infinite.
Tensor converted(const Tensor& values, torch::ScalarType dtype, const std::string& name) {
  if (values.scalar_type() == dtype) return values;
  const auto result = values.to(dtype);
  if (is_finite(result)) return result;
  const auto overflowed = result.to(torch::kFloat64).isfinite().logical_not();
  throw Error(
      name,
      c10::str(overflowed.sum().item<int64_t>(), " values are too large for ",
               dtype_info(dtype).short_name, ", the largest is ",
               values.to(torch::kFloat64).masked_select(overflowed).abs().max().item<double>()),
      "Export as bf16 or fp32.");
}

/// True for parameters whose rows are K/V heads.
bool has_kv_heads(const ParameterId& id, const DecoderConfig& config) {
  if (id.role == Role::kKey || id.role == Role::kValue) return true;
  return id.role == Role::kKeyNorm &&
         config.layer(*id.layer).attention.qk_norm->over != QkNormConfig::Over::kHead;
}

ParameterSource exported_parameter(const ModelFolder& source, const ExportPlan& plan,
                                   const DecoderConfig& target, const ParameterId& id) {
  const auto dtype = plan.dtype.value_or(source.parameter_dtype(id));
  const auto values = [&source, id, dtype] {
    return converted(finite_parameter(source, id), dtype, source.tensor_name(id));
  };
  if (!has_kv_heads(id, source.config())) return {id, values, dtype};
  const int64_t before = source.config().layer(*id.layer).attention.n_kv_head;
  const int64_t times = target.layer(*id.layer).attention.n_kv_head / before;
  const auto repeated = [values, before, times] {
    return times == 1 ? values() : repeat_heads(values(), before, times);
  };
  return {id, repeated, dtype};
}

std::vector<ParameterSource> exported_parameters(const ModelFolder& source, const ExportPlan& plan,
                                                 const DecoderConfig& target) {
  std::vector<ParameterSource> parameters;
  for (const auto& block : decoder_blocks(target)) {
    for (const auto& parameter : block.parameters)
      parameters.push_back(exported_parameter(source, plan, target, parameter.id));
  }
  return parameters;
}

std::string file_text(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

void write_hdf5(const fs::path& folder, const std::vector<TensorSource>& tensors) {
  auto file = Hdf5File::create(folder / kModelHdf5);
  for (const auto& tensor : tensors) file.write("/" + tensor.name, tensor.load());
  file.set_attribute("/", kConfigJson, file_text(folder / kConfigJson));
  file.close();
}

}  // namespace

DecoderConfig exported_config(const ModelFolder& source, ExportLayout layout) {
  auto config = source.config();
  if (layout == ExportLayout::kGrouped) return config;
  for (auto& layer : config.layers) layer.attention.n_kv_head = source.config().kv_head_multiple();
  if (expresses(source.family(), config)) return config;
  for (auto& layer : config.layers) layer.attention.n_kv_head = layer.attention.n_head;
  return config;
}

void export_model(const ModelFolder& source, const ExportPlan& plan, const fs::path& folder) {
  const auto config = exported_config(source, plan.layout);
  ModelDescription description{&source.family(), config, plan.dtype.value_or(source.dtype()),
                               source.provenance(), source.text()};
  description.text.replaced.insert(kModelCard);
  description.form = &deployable_form(source.family(), config);
  const auto parameters = exported_parameters(source, plan, config);
  if (plan.format == ExportFormat::kHuggingFace) {
    write_model(folder, description, parameters, plan.max_shard_bytes);
    return;
  }
  write_description(folder, description);
  write_hdf5(folder, tensor_sources(description, parameters));
}

}  // namespace regroup
