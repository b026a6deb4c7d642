// models/convert/pool_layer.h: pools the heads of one attention layer.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/convert/methods.h"
#include "models/convert/partition.h"
#include "models/convert/projections.h"

namespace regroup {

/// The given K/V heads of a layer and the query heads that read them. turns_queries: false leaves q
/// and o in the layer's dtypes.
HeadGroup head_group(const LayerProjections& layer, const std::vector<int64_t>& kv_heads,
                     bool turns_queries = true);

/// The layer whose K/V head g is group g of the partition, pooled; each tensor keeps its dtype.
/// Query heads, and the output projection's columns, are reordered with their K/V heads, so that
/// the layout stays standard. A group of one head stays bit for bit, unless the method draws heads
/// anew.
LayerProjections pool_layer(const LayerProjections& layer, const Partition& partition,
                            const ConversionMethod& method, const MethodContext& context);

/// Groups of n / n_groups neighbours (Ainslie et al. 2023, fig. 2).
Partition neighbouring_heads(int64_t n_kv_head, int64_t n_groups);

/// The partition into n_groups that loses least under the method: with the least sum over groups of
/// pooling_error's two parts, each relative to the whole layer's. Exact where all possible groups
/// can be tried; otherwise the result of a search by pairs, which is never worse than neighbours.
Partition similar_heads(const LayerProjections& layer, int64_t n_groups,
                        const ConversionMethod& method, const MethodContext& context);

/// The relative error of a layer's scores plus that of its outputs after pooling (pooling_error).
double relative_pooling_error(const LayerProjections& layer, const Partition& partition,
                              const ConversionMethod& method, const MethodContext& context);

}  // namespace regroup
