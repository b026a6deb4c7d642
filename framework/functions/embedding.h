// framework/functions/embedding.h: rows of a table, with a gradient that is summed in float32.
#pragma once

#include <torch/types.h>

namespace regroup {

/// table: [vocab, d], tokens: int64 of any shape -> [tokens..., d] in table's dtype.
torch::Tensor embedding(const torch::Tensor& table, const torch::Tensor& tokens);

}  // namespace regroup
