// The simple methods: mean, first, random.
#include <torch/types.h>

#include "framework/random.h"
#include "models/convert/methods.h"

namespace regroup {
namespace {

using torch::Tensor;

/// weight: [n_kv_head * head_dim, d] -> [groups, heads a group, head_dim, d].
Tensor grouped(const Tensor& weight, int64_t n_groups, int64_t head_dim) {
  return weight.view({n_groups, -1, head_dim, weight.size(1)});
}

template <typename PoolGroup>
LayerProjections with_pooled(LayerProjections layer, int64_t n_kv_head, const PoolGroup& pool) {
  for (Tensor* weight : {&layer.k_proj, &layer.v_proj}) {
    *weight = pool(grouped(*weight, n_kv_head, layer.shape.head_dim)).flatten(0, 1).contiguous();
  }
  layer.shape.n_kv_head = n_kv_head;
  return layer;
}

}  // namespace

LayerProjections mean_heads(const LayerProjections& layer, int64_t n_kv_head,
                            const MethodContext&) {
  return with_pooled(layer, n_kv_head, [](const Tensor& groups) {
    return groups.to(torch::kFloat64).mean(1).to(groups.scalar_type());
  });
}

LayerProjections first_heads(const LayerProjections& layer, int64_t n_kv_head,
                             const MethodContext&) {
  return with_pooled(layer, n_kv_head, [](const Tensor& groups) { return groups.select(1, 0); });
}

LayerProjections random_heads(const LayerProjections& layer, int64_t n_kv_head,
                              const MethodContext& context) {
  auto generator =
      seeded_generator(context.seed, c10::str("random heads of layer ", context.layer));
  return with_pooled(layer, n_kv_head, [&](const Tensor& groups) {
    const std::vector<int64_t> shape{groups.size(0), groups.size(2), groups.size(3)};
    return (torch::randn(shape, generator) * groups.to(torch::kFloat32).std())
        .to(groups.scalar_type());
  });
}

}  // namespace regroup
