#include "models/convert/layer_pooling.h"

#include <torch/types.h>

namespace regroup {

const EnumNames<Grouping>& groupings() {
  static const EnumNames<Grouping> names{{"neighbours", Grouping::kNeighbours},
                                         {"similar", Grouping::kSimilar}};
  return names;
}

LayerPooling::LayerPooling(const std::string& method, Grouping grouping, uint64_t seed)
    : method_(conversion_method(method)), grouping_(grouping), seed_(seed) {}

MethodContext LayerPooling::context(int64_t layer, const CalibrationPass* pass) const {
  const bool informed = pass && (method_.uses_moments || grouping_ == Grouping::kSimilar);
  return {informed ? pass->input_moments() : InputMoments(), seed_, layer};
}

Partition LayerPooling::partition(const LayerProjections& layer, int64_t n_kv_head,
                                  const MethodContext& context) const {
  return grouping_ == Grouping::kSimilar ? similar_heads(layer, n_kv_head, method_, context)
                                         : neighbouring_heads(layer.shape.n_kv_head, n_kv_head);
}

}  // namespace regroup
