// models/weight_copy.h: a decoder's weights in host memory, each block's with the process that is
// to write it.
#pragma once

#include <torch/types.h>

#include <vector>

#include "models/hf_checkpoint.h"

namespace regroup {

/// How many of n processes write a model of so many bytes: a small one stays in one file.
int64_t n_writers(int64_t model_bytes, int64_t n_processes);

class WeightCopy {
 public:
  /// Of this process, one of `size`, which write side by side.
  WeightCopy(int rank, int size) : rank_(rank), size_(size) {}

  /// Makes the memory, and touches it, so that the first take() need not wait for its pages.
  void reserve(const Decoder& decoder);
  /// Copies what this process is to write; memory is kept for the next time. All processes call it
  /// alike: where blocks are divided each is gathered in turn.
  void take(Decoder& decoder);

  /// For write_model, in the decoder's order; they refer to this.
  std::vector<ParameterSource> sources() const;

 private:
  struct Block {
    std::vector<ParameterSpec> parameters;
    int writer;
    torch::Tensor values;  // [numel] where this process writes it
  };

  int rank_, size_;
  std::vector<Block> blocks_;
};

}  // namespace regroup
