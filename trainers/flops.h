// trainers/flops.h: how much arithmetic a model takes, and how much this machine does.
#pragma once

#include <torch/types.h>

#include "models/decoder_config.h"

namespace regroup {

/// Floating-point operations of one token's forward pass in sequences of seq_len: 2 a weight of
/// every matrix (the embedding is no product), and causal attention's 2 * n_head * head_dim *
/// seq_len a layer.
double forward_flops_per_token(const DecoderConfig& config, int64_t seq_len);

/// Forward and backward: three times the forward pass; recomputation does not count.
double training_flops_per_token(const DecoderConfig& config, int64_t seq_len);

/// FLOP/s that matrix products reach on this device in this dtype, measured on a square product in
/// under a second: what MFU is a share of. 2 threads and 16 threads have different peaks, so it is
/// measured under the threads in force.
double measured_peak_flops(torch::TensorOptions options);

/// Bytes of memory that this process holds now, and the most that it held.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace regroup
