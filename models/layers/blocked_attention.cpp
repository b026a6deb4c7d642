#include "models/layers/blocked_attention.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>

namespace regroup {
namespace {

using torch::Tensor;

constexpr int64_t kQueriesPerBlock = 128;

}  // namespace

GroupedHeads grouped_heads(const Tensor& qkv, const AttentionShape& shape,
                           const RopeAngles& angles) {
  const auto parts = rotary_qkv(qkv, shape, angles);
  const auto scaled = parts[0] / std::sqrt(static_cast<double>(shape.head_dim));
  return {scaled.unflatten(1, {shape.n_kv_head, -1}), parts[1], parts[2]};
}

std::vector<QueryBlock> query_blocks(int64_t n_positions) {
  std::vector<QueryBlock> blocks;
  for (int64_t first = 0; first < n_positions; first += kQueriesPerBlock)
    blocks.push_back({first, std::min(kQueriesPerBlock, n_positions - first)});
  return blocks;
}

Tensor attention_weights(const GroupedHeads& heads, const QueryBlock& block) {
  const auto queries = heads.queries.narrow(3, block.first, block.count);
  const auto keys = heads.keys.narrow(2, 0, block.seen());
  // The queries of a group are rows of one product.
  const auto scores =
      queries.flatten(2, 3).matmul(keys.mT()).unflatten(2, {queries.size(2), block.count});
  {
    // Outside the graph, because the gradient is 0 where the softmax is.
    const torch::NoGradGuard no_grad;
    const auto future = torch::full({block.count, block.count}, -INFINITY, scores.options());
    scores.detach().narrow(4, block.first, block.count).add_(future.triu(1));
  }
  return torch::softmax(scores, -1);
}

Tensor blocked_attention(const Tensor& qkv, const AttentionShape& shape, const RopeAngles& angles,
                         const std::vector<QueryBlock>& blocks) {
  const auto heads = grouped_heads(qkv, shape, angles);
  std::vector<Tensor> outputs;
  for (const auto& block : blocks) {
    const auto weights = attention_weights(heads, block);
    const auto values = heads.values.narrow(2, 0, block.seen());
    outputs.push_back(
        weights.flatten(2, 3).matmul(values).unflatten(2, {weights.size(2), block.count}));
  }
  return torch::cat(outputs, 3).permute({0, 3, 1, 2, 4}).flatten(2);
}

}  // namespace regroup
