// models/finite.h: NaN and infinity in weights and in what a model computes.
#pragma once

#include <torch/types.h>

#include <string>

#include "models/decoder.h"
#include "models/model_folder.h"

namespace regroup {

/// True if no number is NaN or infinite. Makes no copy of the values.
bool is_finite(const torch::Tensor& values);

/// A parameter of the folder. Throws Error, which names the tensor, if it holds numbers
/// that are not finite.
torch::Tensor finite_parameter(const ModelFolder& folder, const ParameterId& id);

/// Throws Error, which names the tensor, if a parameter holds numbers that are not finite. Looks at
/// the blocks that this process holds whole.
void require_finite_parameters(const Decoder& model);

/// Throws the Error for results that are not finite, of tokens [B, T]: it names the parameter that
/// is to blame, else the layer whose output overflows.
[[noreturn]] void refuse_nonfinite_results(Decoder& model, const torch::Tensor& tokens);

}  // namespace regroup
