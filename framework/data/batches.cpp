#include "framework/data/batches.h"

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>

#include "framework/errors/error.h"
#include "framework/tensors/random.h"

namespace regroup {

Batches::Batches(const TokenSplit& split, int64_t seq_len, std::optional<uint64_t> shuffle_seed)
    : split_(split),
      seq_len_(seq_len),
      n_windows_((split.n_tokens() - 1) / seq_len),
      shuffle_seed_(shuffle_seed) {
  if (n_windows_ > 0) return;
  throw Error(split.where(),
              c10::str("has ", split.n_tokens(), " tokens, but one sequence of seq_len ", seq_len,
                       " needs ", seq_len + 1),
              "Use more data or a smaller seq_len.");
}

int64_t Batches::window_at(int64_t position) {
  const int64_t epoch = position / n_windows_;
  const int64_t place = position % n_windows_;
  if (!shuffle_seed_) return place;
  if (epoch != epoch_) {
    order_ = seeded_permutation(n_windows_, *shuffle_seed_, static_cast<uint64_t>(epoch));
    epoch_ = epoch;
  }
  return order_[static_cast<size_t>(place)];
}

at::Tensor Batches::gather(int64_t first_position, int64_t count) {
  auto batch = at::empty({count, seq_len_ + 1}, at::kLong);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t window = window_at(first_position + row);
    batch[row].copy_(split_.read(window * seq_len_, seq_len_ + 1));
  }
  return batch;
}

}  // namespace regroup
