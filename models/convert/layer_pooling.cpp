#include "models/convert/layer_pooling.h"

#include <torch/types.h>

#include "models/finite.h"

namespace regroup {

const EnumNames<Grouping>& groupings() {
  static const EnumNames<Grouping> names{{"neighbours", Grouping::kNeighbours},
                                         {"similar", Grouping::kSimilar}};
  return names;
}

LayerProjections layer_projections(const ModelFolder& source, int64_t layer) {
  const auto& config = source.config();
  const auto projection = [&](const char* name) {
    const auto parameter = c10::str("layers.", layer, ".attention.", name, ".weight");
    return finite_parameter(source, parameter);
  };
  return {{config.n_head, config.n_kv_head[static_cast<size_t>(layer)], config.head_dim},
          config.head_dim,
          projection("q_proj"),
          projection("k_proj"),
          projection("v_proj"),
          projection("o_proj")};
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
