// models/convert/pool_layer.h: one attention layer to one with fewer K/V heads.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/convert/methods.h"
#include "models/convert/partition.h"
#include "models/layers/attention.h"

namespace regroup {

/// The projections of one attention layer. q_proj: [n_head * head_dim, d], k_proj, v_proj:
/// [n_kv_head * head_dim, d], o_proj: [d_model, n_head * head_dim]; d is d_model, or one more where
/// biases are a last column.
struct LayerProjections {
  AttentionShape shape;
  int64_t rotary_dim;  // dims of a head that RoPE turns; even
  torch::Tensor q_proj, k_proj, v_proj, o_proj;
};

/// The member that a parameter's name means ("layers.0.attention.q_proj.weight"); null where it is
/// none of the four.
torch::Tensor LayerProjections::*find_projection(const std::string& parameter);

/// These K/V heads of a layer and the query heads that read them.
HeadGroup head_group(const LayerProjections& layer, const std::vector<int64_t>& kv_heads);

/// The layer with group g of the partition as K/V head g, in each tensor's dtype. Query heads (and
/// the output projection's columns) follow their K/V heads, so that the layout stays standard. A
/// group of one head stays as it is, bit for bit, but where the method draws anew.
LayerProjections pool_layer(const LayerProjections& layer, const Partition& partition,
                            const ConversionMethod& method, const MethodContext& context);

/// Groups of n / n_groups neighbours (Ainslie et al. 2023, fig. 2).
Partition neighbouring_heads(int64_t n_kv_head, int64_t n_groups);

/// The partition into n_groups that loses least under the method: the least sum over groups of
/// pooling_error's two parts, each as a share of the whole layer's. Exact where the groups that
/// there are can all be tried; else the best of a search by pairs, never worse than neighbours.
Partition similar_heads(const LayerProjections& layer, int64_t n_groups,
                        const ConversionMethod& method, const MethodContext& context);

/// The share of a layer's scores and of its outputs that pooling loses (pooling_error), added.
double relative_pooling_error(const LayerProjections& layer, const Partition& partition,
                              const ConversionMethod& method, const MethodContext& context);

}  // namespace regroup
