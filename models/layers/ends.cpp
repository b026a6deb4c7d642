#include "models/layers/ends.h"

#include <torch/types.h>

#include "framework/functions/embedding.h"
#include "framework/functions/linear.h"

namespace regroup {

using torch::Tensor;

Tensor embedding_of(const DecoderConfig& config, const DecoderBlock& block,
                    const std::vector<Tensor>& weights, const Tensor& tokens, int64_t past) {
  const auto& rule = config.embedding;
  auto x = regroup::embedding(block.find(weights, Role::kEmbedding), tokens);  // [B, T, width]
  // Gemma rounds the factor to the dtype first.
  if (rule.scale != 1) x = x * torch::full({}, rule.scale, x.options());
  if (rule.width) {
    x = regroup::linear(x.flatten(0, 1), block.linear(weights, Role::kEmbeddingIn))
            .unflatten(0, {tokens.size(0), tokens.size(1)});
  }
  if (rule.first_position) {
    const auto positions = torch::arange(past, past + tokens.size(1), tokens.options());
    x = x +
        regroup::embedding(block.find(weights, Role::kPositions), positions + *rule.first_position);
  }
  const auto rows = x.flatten(0, 1);
  return rule.norm ? normed(rows, block.norm(weights, Role::kEmbeddingNorm, *rule.norm)) : rows;
}

Predictions output_of(const DecoderConfig& config, const std::vector<DecoderBlock>& blocks,
                      const Tensor& x, const std::vector<Tensor>& last,
                      const std::vector<Tensor>& first) {
  const auto& block = blocks.back();
  auto hidden = x;
  if (config.final_norm)
    hidden = normed(hidden, block.norm(last, Role::kFinalNorm, *config.final_norm));
  if (config.embedding.width)
    hidden = regroup::linear(hidden, block.linear(last, Role::kEmbeddingOut));
  if (config.head.scale != 1) hidden = hidden * config.head.scale;
  const auto weight = config.head.tied ? blocks.front().find(first, Role::kEmbedding)
                                       : block.find(last, Role::kHead);
  return {hidden, {weight, block.find(last, Role::kHead, /*is_bias=*/true), config.head.soft_cap}};
}

}  // namespace regroup
