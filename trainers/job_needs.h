// trainers/job_needs.h: what a training job takes of each process, told from its shape alone:
// memory and bytes on the wire.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "framework/distributed/world.h"
#include "models/decoder_config.h"

namespace regroup {

struct JobShape {
  DecoderConfig model;
  torch::ScalarType dtype = torch::kBFloat16, wire_dtype = torch::kFloat32;
  int64_t seq_len = 512, micro_batch = 1, sequences_per_step = 8;
  bool recomputes = false;  // activation checkpointing
};

/// How processes divide a model: Strategy as numbers.
struct Division {
  int64_t shards = 1, replicas = 1;
  int64_t processes() const { return shards * replicas; }
};

/// Of the process that has most. In bytes.
struct JobNeeds {
  int64_t parameters = 0, gradients = 0, optimizer = 0;  // throughout
  int64_t gathers = 0;      // blocks gathered for use: one and the next, with several shards
  int64_t reductions = 0;   // of gradients on their way to be summed
  int64_t activations = 0;  // of a micro-batch, at the most: kept for backward, and at work
  int64_t snapshot = 0;     // a checkpoint's copy, in host memory
  int64_t sent_a_step = 0;

  /// On the device.
  int64_t device() const {
    return parameters + gradients + optimizer + gathers + reductions + activations;
  }
};

JobNeeds needs_of(const JobShape& shape, const Division& division);

/// The most sequences of a micro-batch with which the needs fit; 0 where not even one does.
int64_t largest_micro_batch(JobShape shape, const Division& division, int64_t device_bytes);

}  // namespace regroup
