#include "models/finite.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>

#include "framework/errors/error.h"
#include "framework/tensors/dtype.h"

namespace regroup {
namespace {

constexpr const char* kDamagedWeights = "The file is damaged, or its training diverged.";

constexpr int64_t kAtATime = int64_t{1} << 20;  // elements of an upcast copy

[[noreturn]] void refuse_tensor(const std::string& where, const std::string& name) {
  throw Error(where, "tensor " + name + " holds numbers that are not finite", kDamagedWeights);
}

bool is_held_whole(const FlatParameters& block) { return block.held().size() == block.numel(); }

}  // namespace

bool is_finite(const torch::Tensor& values) {
  if (values.numel() == 0) return true;
  const bool is_small = values.is_floating_point() && values.element_size() == 1;
  if (is_small) {  // LibTorch cannot compare 8-bit floats
    for (const auto& part : values.reshape(-1).split(kAtATime))
      if (!is_finite(part.to(torch::kFloat32))) return false;
    return true;
  }
  const auto [least, most] = values.aminmax();  // NaN if one is
  return std::isfinite(least.item<double>()) && std::isfinite(most.item<double>());
}

torch::Tensor finite_parameter(const ModelFolder& folder, const ParameterId& id) {
  const auto values = folder.parameter(id);
  if (!is_finite(values)) refuse_tensor(folder.path().string(), folder.tensor_name(id));
  return values;
}

void require_finite_parameters(const Decoder& model) {
  const torch::NoGradGuard no_grad;
  const auto& [where, name_in_file] = model.origin();
  for (size_t block = 0; block < model.blocks().size(); ++block) {
    const auto& values = model.blocks()[block];
    if (!is_held_whole(values)) continue;
    const auto& parameters = model.block_specs()[block].parameters;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!is_finite(values.parameter(i))) refuse_tensor(where, name_in_file(parameters[i].id));
    }
  }
}

void refuse_nonfinite_results(Decoder& model, const torch::Tensor& tokens) {
  require_finite_parameters(model);
  const bool has_all = std::all_of(model.blocks().begin(), model.blocks().end(), is_held_whole);
  const auto layer = has_all ? model.first_nonfinite_layer(tokens) : std::nullopt;
  const auto dtype = c10::typeMetaToScalarType(model.options().dtype());
  throw Error(model.origin().where,
              c10::str(layer ? c10::str("the output of layer ", *layer) : "the model's output",
                       " is not finite, though its weights are: it exceeds the range of ",
                       dtype_info(dtype).short_name),
              dtype == torch::kFloat32 ? kDamagedWeights : "Compute in fp32.");
}

}  // namespace regroup
