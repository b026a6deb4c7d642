// framework/functions/embedding.h: rows of a table, with a gradient that is summed in float32.
#pragma once

#include <torch/types.h>

namespace regroup {

/// table: [vocab_size, d], tokens: int64 of any shape -> [tokens..., d] in table's dtype. A token
/// that is no row of the table is refused with c10::Error (on the CPU; a GPU asserts).
torch::Tensor embedding(const torch::Tensor& table, const torch::Tensor& tokens);

}  // namespace regroup
