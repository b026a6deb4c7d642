// models/flops.h: how much arithmetic a model takes.
#pragma once

#include <cstdint>

#include "models/decoder_config.h"

namespace regroup {

/// Floating-point operations of one token's forward pass in sequences of seq_len: 2 a weight of
/// every matrix (the embedding is no product), and causal attention's 2 * n_head * head_dim *
/// seq_len a layer.
double forward_flops_per_token(const DecoderConfig& config, int64_t seq_len);

/// The part of it that attention has: its projections, scores and sums.
double attention_flops_per_token(const DecoderConfig& config, int64_t seq_len);

/// Forward and backward: three times the forward pass; recomputation does not count.
double training_flops_per_token(const DecoderConfig& config, int64_t seq_len);

}  // namespace regroup
