// framework/functions/embedding.h: rows of a table, whose gradient is summed in float32.
#pragma once

#include <torch/types.h>

namespace regroup {

/// table: [vocab_size, d], tokens: int64 of any shape -> [tokens..., d] in table's dtype. A token
/// outside the table throws c10::Error (on the CPU; a GPU asserts).
torch::Tensor embedding(const torch::Tensor& table, const torch::Tensor& tokens);

}  // namespace regroup
