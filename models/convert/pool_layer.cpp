#include "models/convert/pool_layer.h"

#include <numeric>

#include "models/convert/partition.h"

namespace regroup {
namespace {

using torch::Tensor;

PooledGroup pool_group(const HeadGroup& group, const ConversionMethod& method,
                       const MethodContext& context) {
  const bool stays = group.size() == 1 && !method.draws_anew;
  return stays ? group : method.pool(group, context);
}

std::vector<int64_t> all_heads(const LayerProjections& layer) {
  std::vector<int64_t> heads(static_cast<size_t>(layer.shape.n_kv_head));
  std::iota(heads.begin(), heads.end(), 0);
  return heads;
}

/// L of L Lᵀ = moment, [d, d]. Text with fewer distinct inputs than d gives a singular moment,
/// whose rounded form may have negative eigenvalues: the smallest multiple of the identity that
/// makes it decomposable is added.
Tensor root_of(const Tensor& moment) {
  const auto mean = moment.diagonal().mean().item<double>();
  const auto identity = torch::eye(moment.size(0), moment.options());
  for (double ridge = 1e-9; ridge < 1; ridge *= 10) {
    const auto [root, failed] = torch::linalg_cholesky_ex(moment + ridge * mean * identity);
    if (failed.item<int>() == 0) return root;
  }
  return torch::linalg_cholesky(moment);  // says what is wrong
}

/// The loss of pooling any group of a layer. Inputs are whitened once: with Σ = L Lᵀ, the product
/// of rows a and b under Σ is that of a L and b L under the identity.
class GroupLoss {
 public:
  GroupLoss(const LayerProjections& layer, const ConversionMethod& method, MethodContext context)
      : layer_(whitened(layer, context.moments)), method_(method), context_(context) {
    context_.moments = {};
    energy_ = group_energy(head_group(layer_, all_heads(layer_)), {});
  }

  double operator()(const std::vector<int64_t>& kv_heads) const {
    const auto group = head_group(layer_, kv_heads);
    const auto lost = pooling_error(group, pool_group(group, method_, context_), InputMoments());
    return share(lost.scores, energy_.scores) + share(lost.outputs, energy_.outputs);
  }

 private:
  static double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

  static LayerProjections whitened(LayerProjections layer, const InputMoments& moments) {
    const auto whiten = [](Tensor& weight, const Tensor& moment) {
      if (!moment.defined()) return;
      weight = weight.to(torch::kFloat64).matmul(root_of(moment));
    };
    whiten(layer.q_proj, moments.seen);
    whiten(layer.k_proj, moments.seen);
    whiten(layer.v_proj, moments.attended);
    return layer;
  }

  LayerProjections layer_;
  const ConversionMethod& method_;
  MethodContext context_;
  GroupError energy_;
};

}  // namespace

HeadGroup head_group(const LayerProjections& layer, const std::vector<int64_t>& kv_heads,
                     bool turns_queries) {
  const int64_t n_kv_head = layer.shape.n_kv_head, head_dim = layer.shape.head_dim;
  const auto index = torch::tensor(kv_heads, torch::kInt64);
  const auto chosen = [&](const Tensor& weight, int64_t axis, at::IntArrayRef shape) {
    return weight.unflatten(axis, shape).index_select(axis, index);
  };
  const int64_t s = layer.shape.group_size();
  const auto queries = chosen(layer.q_proj, 0, {n_kv_head, s, head_dim});
  const auto outputs = chosen(layer.o_proj, 1, {n_kv_head, s, head_dim}).permute({1, 2, 0, 3});
  return {chosen(layer.k_proj, 0, {n_kv_head, head_dim}).to(torch::kFloat64),
          chosen(layer.v_proj, 0, {n_kv_head, head_dim}).to(torch::kFloat64),
          turns_queries ? queries.to(torch::kFloat64) : queries,
          turns_queries ? outputs.to(torch::kFloat64) : outputs,
          layer.rotary_dim,
          /*k_may_scale=*/!layer.shape.qk_norm && !layer.shape.clip_qkv,
          /*v_may_scale=*/!layer.shape.clip_qkv};
}

namespace {

/// The gains of norms by head: query heads in the order of the partition, K/V heads as means.
void pool_norms(const LayerProjections& layer, const Partition& partition,
                LayerProjections& pooled) {
  if (!layer.k_norm.defined()) return;
  std::vector<Tensor> query_gains, key_gains;
  const auto by_group = layer.q_norm.unflatten(0, {layer.shape.n_kv_head, -1});
  for (const auto& kv_heads : partition) {
    const auto index = torch::tensor(kv_heads, torch::kInt64);
    query_gains.push_back(by_group.index_select(0, index).flatten(0, 1));
    const auto gains = layer.k_norm.index_select(0, index).to(torch::kFloat64);
    key_gains.push_back(gains.mean(0).to(layer.k_norm.scalar_type()));
  }
  pooled.q_norm = torch::cat(query_gains);
  pooled.k_norm = torch::stack(key_gains);
}

}  // namespace

LayerProjections pool_layer(const LayerProjections& layer, const Partition& partition,
                            const ConversionMethod& method, const MethodContext& context) {
  std::vector<Tensor> keys, values, queries, outputs;
  for (size_t g = 0; g < partition.size(); ++g) {
    auto group_context = context;
    group_context.group = static_cast<int64_t>(g);
    const auto group = head_group(layer, partition[g], method.turns_queries);
    const auto pooled = pool_group(group, method, group_context);
    // Each group leaves float64 by itself, so that one of them is held in it.
    keys.push_back(pooled.k.flatten(0, 1).to(layer.k_proj.scalar_type()));
    values.push_back(pooled.v.flatten(0, 1).to(layer.v_proj.scalar_type()));
    // [n * s * head_dim, d], and the same for columns
    queries.push_back(pooled.q.flatten(0, 2).to(layer.q_proj.scalar_type()));
    outputs.push_back(pooled.o.permute({2, 0, 1, 3}).flatten(1).to(layer.o_proj.scalar_type()));
  }
  auto shape = layer.shape;
  shape.n_kv_head = static_cast<int64_t>(partition.size());
  LayerProjections pooled{shape,
                          layer.rotary_dim,
                          torch::cat(queries),
                          torch::cat(keys),
                          torch::cat(values),
                          torch::cat(outputs, 1)};
  pool_norms(layer, partition, pooled);
  return pooled;
}

Partition neighbouring_heads(int64_t n_kv_head, int64_t n_groups) {
  Partition partition(static_cast<size_t>(n_groups));
  for (int64_t head = 0; head < n_kv_head; ++head)
    partition[static_cast<size_t>(head * n_groups / n_kv_head)].push_back(head);
  return partition;
}

Partition similar_heads(const LayerProjections& layer, int64_t n_groups,
                        const ConversionMethod& method, const MethodContext& context) {
  const GroupLoss loss(layer, method, context);
  return best_partition(neighbouring_heads(layer.shape.n_kv_head, n_groups), loss);
}

double relative_pooling_error(const LayerProjections& layer, const Partition& partition,
                              const ConversionMethod& method, const MethodContext& context) {
  const GroupLoss loss(layer, method, context);
  return std::transform_reduce(partition.begin(), partition.end(), 0.0, std::plus<>(),
                               [&](const auto& kv_heads) { return loss(kv_heads); });
}

}  // namespace regroup
