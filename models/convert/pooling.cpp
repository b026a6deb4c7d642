// The simple methods: mean, first, random. They do not change queries and output projections.
#include <torch/types.h>

#include "framework/tensors/random.h"
#include "models/convert/methods.h"

namespace regroup {
namespace {

using torch::Tensor;

template <typename Pool>
PooledGroup with_pooled(HeadGroup group, const Pool& pool) {
  group.k = pool(group.k);
  group.v = pool(group.v);
  return group;
}

}  // namespace

PooledGroup mean_heads(const HeadGroup& group, const MethodContext&) {
  return with_pooled(group, [](const Tensor& heads) { return heads.mean(0, /*keepdim=*/true); });
}

PooledGroup first_heads(const HeadGroup& group, const MethodContext&) {
  return with_pooled(group, [](const Tensor& heads) { return heads.narrow(0, 0, 1); });
}

PooledGroup random_heads(const HeadGroup& group, const MethodContext& context) {
  auto generator = seeded_generator(
      context.seed, c10::str("random heads of layer ", context.layer, ", group ", context.group));
  return with_pooled(group, [&](const Tensor& heads) {
    const auto drawn = torch::randn({1, heads.size(1), heads.size(2)}, generator, heads.options());
    return drawn * heads.std();
  });
}

}  // namespace regroup
