#include "models/convert/projections.h"

#include <torch/types.h>

#include "models/finite.h"

namespace regroup {
namespace {

using torch::Tensor;

Tensor LayerProjections::*member_of(Role role) {
  switch (role) {
    case Role::kQuery:
      return &LayerProjections::q_proj;
    case Role::kKey:
      return &LayerProjections::k_proj;
    case Role::kValue:
      return &LayerProjections::v_proj;
    case Role::kOutput:
      return &LayerProjections::o_proj;
    case Role::kQueryNorm:
      return &LayerProjections::q_norm;
    case Role::kKeyNorm:
      return &LayerProjections::k_norm;
    default:
      return nullptr;
  }
}

/// A view of a parameter's part of the member that holds it.
Tensor view_of(const LayerProjections& layer, const ParameterId& id) {
  const auto& values = layer.*member_of(id.role);
  const bool has_bias = layer.shape.qkv_bias && id.role <= Role::kValue;
  if (!has_bias) return values;
  const int64_t width = values.size(1) - 1;
  return id.is_bias ? values.select(1, width) : values.narrow(1, 0, width);
}

bool differs_by_head(const AttentionConfig& attention) {
  return attention.qk_norm && attention.qk_norm->over != QkNormConfig::Over::kHead &&
         attention.qk_norm->norm.has_gain;
}

}  // namespace

LayerProjections layer_projections(const ModelFolder& source, int64_t layer) {
  const auto& attention = source.config().layer(layer).attention;
  const auto values = [&](Role role, bool is_bias = false) {
    return finite_parameter(source, {role, layer, is_bias});
  };
  const auto with_bias = [&](Role role) {
    const auto weight = values(role);
    if (!attention.qkv_bias) return weight;
    return torch::cat({weight, values(role, /*is_bias=*/true).unsqueeze(1)}, 1);
  };
  const auto gains = [&](Role role, int64_t heads) {
    return differs_by_head(attention) ? values(role).view({heads, attention.head_dim}) : Tensor();
  };
  return {attention,
          attention.rotary_dims(),
          with_bias(Role::kQuery),
          with_bias(Role::kKey),
          with_bias(Role::kValue),
          values(Role::kOutput),
          gains(Role::kQueryNorm, attention.n_head),
          gains(Role::kKeyNorm, attention.n_kv_head)};
}

bool is_projection(const ParameterId& id, const AttentionConfig& attention) {
  switch (id.role) {
    case Role::kQuery:
    case Role::kKey:
    case Role::kValue:
      return true;
    case Role::kOutput:
      return !id.is_bias;
    case Role::kQueryNorm:
    case Role::kKeyNorm:
      return !id.is_bias && differs_by_head(attention);
    default:
      return false;
  }
}

Tensor projection_values(const LayerProjections& layer, const ParameterId& id) {
  const auto values = view_of(layer, id);
  const bool is_over_all =
      layer.shape.qk_norm && layer.shape.qk_norm->over == QkNormConfig::Over::kAllHeads;
  const bool is_gain = id.role == Role::kQueryNorm || id.role == Role::kKeyNorm;
  return is_gain && is_over_all ? values.flatten() : values;
}

void set_projection_values(LayerProjections& layer, const ParameterId& id, const Tensor& values) {
  const auto place = view_of(layer, id);
  place.copy_(values.view(place.sizes()));
}

}  // namespace regroup
