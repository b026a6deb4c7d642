// trainers/job_needs.h: the memory and wire bytes that a training job needs on each process,
// computed from the job's shape.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "framework/distributed/world.h"
#include "models/config/decoder_config.h"

namespace regroup {

struct JobShape {
  DecoderConfig model;
  std::optional<DecoderConfig> teacher = {};  // with [distill]; held in bfloat16
  torch::ScalarType dtype = torch::kBFloat16, wire_dtype = torch::kFloat32;
  int64_t seq_len = 512, micro_batch = 1, sequences_per_step = 8;
  bool recomputes = false;  // activation checkpointing
};

/// How processes divide a model: Strategy in numbers.
struct Division {
  int64_t shards = 1, replicas = 1;
  int64_t processes() const { return shards * replicas; }
};

/// Bytes needed by the most loaded process.
struct JobNeeds {
  int64_t parameters = 0, optimizer = 0;  // held throughout
  int64_t gradients = 0;                  // beyond the activations whose place they take
  int64_t teacher = 0;      // its parameters, and its gathered blocks with several shards
  int64_t gathers = 0;      // gathered blocks with several shards: the current one and the next
  int64_t reductions = 0;   // gradients on their way to be summed
  int64_t activations = 0;  // peak of one micro-batch: kept for backward, and in use
  int64_t snapshot = 0;     // a checkpoint's copy, in host memory
  int64_t sent_a_step = 0;

  /// Bytes on the device: everything but the snapshot.
  int64_t device() const {
    return parameters + gradients + optimizer + teacher + gathers + reductions + activations;
  }
};

JobNeeds needs_of(const JobShape& shape, const Division& division);

/// Largest micro-batch, in sequences, that fits device_bytes; 0 if not even one sequence fits.
int64_t largest_micro_batch(JobShape shape, const Division& division, int64_t device_bytes);

}  // namespace regroup
