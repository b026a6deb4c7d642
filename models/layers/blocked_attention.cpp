#include "models/layers/blocked_attention.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>

namespace regroup {
namespace {

using torch::Tensor;

constexpr int64_t kQueriesPerBlock = 128;

}  // namespace

std::vector<QueryBlock> query_blocks(int64_t n_positions) {
  std::vector<QueryBlock> blocks;
  for (int64_t first = 0; first < n_positions; first += kQueriesPerBlock)
    blocks.push_back({first, std::min(kQueriesPerBlock, n_positions - first)});
  return blocks;
}

Tensor attention_weights(const Heads& heads, const ScoreRule& rule, const QueryBlock& block) {
  const auto scaled = heads.queries.narrow(2, block.first, block.count) / (1 / rule.scale);
  const auto queries = scaled.unflatten(1, {heads.keys.size(1), -1});
  const auto keys = heads.keys.narrow(2, 0, block.seen());
  // The queries of a group are rows of one product.
  const auto products =
      queries.flatten(2, 3).matmul(keys.mT()).unflatten(2, {queries.size(2), block.count});
  if (rule.soft_cap || rule.alibi || rule.window) {
    const auto scores = rule.scores(products.flatten(1, 2), block.first);
    return torch::softmax(scores.view(products.sizes()), -1);
  }
  {
    // Outside the graph, because the gradient is 0 where the softmax is.
    const torch::NoGradGuard no_grad;
    const auto future = torch::full({block.count, block.count}, -INFINITY, products.options());
    products.detach().narrow(4, block.first, block.count).add_(future.triu(1));
  }
  return torch::softmax(products, -1);
}

Tensor blocked_attention(const Heads& heads, const ScoreRule& rule,
                         const std::vector<QueryBlock>& blocks) {
  std::vector<Tensor> outputs;
  for (const auto& block : blocks) {
    const auto weights = attention_weights(heads, rule, block);
    const auto values = heads.values.narrow(2, 0, block.seen());
    outputs.push_back(
        weights.flatten(2, 3).matmul(values).unflatten(2, {weights.size(2), block.count}));
  }
  return torch::cat(outputs, 3).permute({0, 3, 1, 2, 4}).flatten(2);
}

}  // namespace regroup
