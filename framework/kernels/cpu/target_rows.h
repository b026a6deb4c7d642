// framework/kernels/cpu/target_rows.h: the loop over rows of logits with a target each.
#pragma once

#include <torch/types.h>

#include <algorithm>

#include "framework/kernels/cpu/loops.h"
#include "framework/kernels/cpu/parallel_rows.h"
#include "framework/kernels/operands.h"

namespace regroup::kernels::cpu {

/// Calls row_loss(row, the row's logits, its target) for each row -> [N] losses in sum_type. The
/// loss of a row with a negative target is 0, and so are its logits where leaves_gradient. Throws
/// c10::Error for a target of vocab_size or more.
template <typename T, typename RowLoss>
torch::Tensor target_rows(torch::Tensor& logits, const torch::Tensor& targets, bool leaves_gradient,
                          const RowLoss& row_loss) {
  const int64_t n_rows = logits.size(0), vocab_size = logits.size(-1);
  auto loss = torch::empty({n_rows}, logits.options().dtype(sum_type(logits)));
  auto* data = logits.mutable_data_ptr<T>();
  const auto* target = targets.const_data_ptr<int64_t>();
  auto* out = loss.mutable_data_ptr<AccumulatorOf<T>>();
  parallel_rows(n_rows, vocab_size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      auto* row_logits = data + row * vocab_size;
      TORCH_CHECK(target[row] < vocab_size, "target ", target[row], " in a vocabulary of ",
                  vocab_size);
      if (target[row] >= 0) {
        out[row] = row_loss(row, row_logits, target[row]);
      } else {
        out[row] = 0;
        if (leaves_gradient) std::fill_n(row_logits, vocab_size, T(0));
      }
    }
  });
  return loss;
}

}  // namespace regroup::kernels::cpu
