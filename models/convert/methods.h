// models/convert/methods.h: how one layer's K/V heads become fewer. A method is a function from a
// layer's projections to projections with fewer K/V heads; all methods stand in one table.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/layers/attention.h"

namespace regroup {

/// The projections of one attention layer. q_proj: [n_head * head_dim, d_model], k_proj, v_proj:
/// [n_kv_head * head_dim, d_model], o_proj: [d_model, n_head * head_dim].
struct LayerProjections {
  AttentionShape shape;
  torch::Tensor q_proj, k_proj, v_proj, o_proj;
};

/// What a method may draw on beside the layer itself.
struct MethodContext {
  uint64_t seed;
  int64_t layer;
};

struct ConversionMethod {
  std::string name;
  std::string summary;
  /// n_kv_head divides the layer's n_kv_head. Keeps every tensor's dtype.
  LayerProjections (*convert)(const LayerProjections& layer, int64_t n_kv_head,
                              const MethodContext& context);
};

/// All methods. Adding one: a file beside this, and a line in methods.cpp.
const std::vector<ConversionMethod>& conversion_methods();
std::vector<std::string> conversion_method_names();
/// Throws a request Error that lists the known names.
const ConversionMethod& conversion_method(const std::string& name);

/// Each new head is the mean of the heads of its group (Ainslie et al. 2023, section 2.1): the
/// rank-1 choice that minimises sum over the group of ||K - K_h||². Sums in float64. Equal heads
/// give themselves, bit for bit.
LayerProjections mean_heads(const LayerProjections& layer, int64_t n_kv_head,
                            const MethodContext& context);
/// Each new head is the first head of its group.
LayerProjections first_heads(const LayerProjections& layer, int64_t n_kv_head,
                             const MethodContext& context);
/// New heads are drawn anew, normal with the standard deviation of the source's projection.
LayerProjections random_heads(const LayerProjections& layer, int64_t n_kv_head,
                              const MethodContext& context);

}  // namespace regroup
