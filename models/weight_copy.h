// models/weight_copy.h: a decoder's weights in host memory; each block lies on the rank that writes
// it.
#pragma once

#include <torch/types.h>

#include <vector>

#include "models/model_writer.h"

namespace regroup {

/// Number of ranks, at most n_processes, that write a model: a small model stays in one file.
int64_t n_writers(int64_t model_bytes, int64_t n_processes);

class WeightCopy {
 public:
  /// For this rank of `size` ranks, which write in parallel.
  WeightCopy(int rank, int size) : rank_(rank), size_(size) {}

  /// Allocates and touches the memory, so that the first take() does not fault pages in.
  void reserve(const Decoder& decoder);
  /// Copies the blocks that this rank writes; the memory is reused by the next call. Every rank
  /// must call it: sharded blocks are gathered one after the other.
  void take(Decoder& decoder);

  /// Sources for write_model, in the decoder's order; they refer to this object.
  std::vector<ParameterSource> sources() const;

 private:
  struct Block {
    std::vector<DecoderParameter> parameters;
    int writer;
    torch::Tensor values;  // [numel] if this rank writes it
  };

  int rank_, size_;
  std::vector<Block> blocks_;
};

}  // namespace regroup
