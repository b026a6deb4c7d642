#include "models/layers/attention.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"
#include "framework/kernels/matmul.h"
#include "models/layers/blocked_attention.h"
#include "models/layers/heads.h"

namespace regroup {
namespace {

using torch::Tensor;

/// ATen's attention. bias: undefined for plain causal attention.
Tensor fused_attention(const Heads& heads, const Tensor& bias, std::optional<double> scale) {
  const auto& [q, k, v] = heads;
  const bool grouped = q.size(1) != k.size(1), causal = !bias.defined();
  const auto attend = [&](const Tensor& queries, const Tensor& keys, const Tensor& values) {
    const auto mask = causal ? std::nullopt : std::optional<Tensor>(bias.to(queries.scalar_type()));
    return torch::scaled_dot_product_attention(queries, keys, values, mask, /*dropout_p=*/0.0,
                                               causal, scale, /*enable_gqa=*/grouped);
  };
  const auto y = multiplies_widened(q)
                     ? attend(q.to(torch::kFloat32), k.to(torch::kFloat32), v.to(torch::kFloat32))
                           .to(q.scalar_type())
                     : attend(q, k, v);
  return y.transpose(1, 2).flatten(2);
}

/// Attention of sequences from position 0 -> [B, T, n_head * head_dim].
Tensor causal_attention(const Heads& heads, const ScoreRule& rule) {
  const auto& q = heads.queries;
  const int64_t n_head = q.size(1), positions = q.size(2), head_dim = q.size(3);
  if (rule.is_plain(head_dim)) return fused_attention(heads, {}, std::nullopt);
  if (rule.soft_cap) return blocked_attention(heads, rule, query_blocks(positions));
  const bool is_causal = !rule.alibi && (!rule.window || *rule.window >= positions);
  const auto bias =
      is_causal ? Tensor() : rule.bias(n_head, 0, positions, q.options()).unsqueeze(0);
  return fused_attention(heads, bias, rule.scale);
}

}  // namespace

Tensor attention(const Tensor& qkv, const AttentionConfig& config, const RopeAngles& angles) {
  return causal_attention(rotated_heads(qkv, config, angles), config.scores);
}

Tensor cached_attention(const Tensor& qkv, const AttentionConfig& config, const RopeAngles& angles,
                        LayerCache& cache, int64_t past) {
  const torch::NoGradGuard no_grad;
  const auto heads = rotated_heads(qkv, config, angles);
  const int64_t positions = qkv.size(1);
  cache.keys.narrow(2, past, positions).copy_(heads.keys);
  cache.values.narrow(2, past, positions).copy_(heads.values);
  if (past == 0 && positions > 1) return causal_attention(heads, config.scores);
  return kernels::decode_attention(heads.queries.transpose(1, 2), cache.keys, cache.values, past,
                                   config.scores);
}

}  // namespace regroup
