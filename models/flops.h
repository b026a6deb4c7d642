// models/flops.h: floating-point operations of a model.
#pragma once

#include <cstdint>

#include "models/config/decoder_config.h"

namespace regroup {

/// FLOPs of one token's forward pass in sequences of seq_len: 2 for each weight of every matrix
/// (the embedding is a lookup), and 2 * n_head * head_dim * seq_len per layer for causal attention.
double forward_flops_per_token(const DecoderConfig& config, int64_t seq_len);

/// Attention's part of forward_flops_per_token: projections, scores and weighted sums.
double attention_flops_per_token(const DecoderConfig& config, int64_t seq_len);

/// FLOPs of forward and backward: three times the forward pass; recomputation does not count.
double training_flops_per_token(const DecoderConfig& config, int64_t seq_len);

}  // namespace regroup
