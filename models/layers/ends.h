// models/layers/ends.h: what comes before the layers and after them: embedding and output head.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "framework/functions/cross_entropy.h"
#include "models/config/decoder_config.h"
#include "models/config/decoder_parameters.h"

namespace regroup {

/// The residual stream before the first layer. tokens: [B, T], at positions from `past` on;
/// weights: the gathered embedding block. -> [B * T, d_model].
torch::Tensor embedding_of(const DecoderConfig& config, const DecoderBlock& block,
                           const std::vector<torch::Tensor>& weights, const torch::Tensor& tokens,
                           int64_t past);

/// The predictions of the residual stream after the last layer, x: [N, d_model]. last: the gathered
/// final block; first: the gathered embedding block, where the head is tied.
Predictions output_of(const DecoderConfig& config, const std::vector<DecoderBlock>& blocks,
                      const torch::Tensor& x, const std::vector<torch::Tensor>& last,
                      const std::vector<torch::Tensor>& first);

}  // namespace regroup
