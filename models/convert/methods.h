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
  /// Σ = E[x xᵀ] of the layer's normed inputs, [d_model, d_model] float64; undefined: the identity.
  torch::Tensor second_moment = {};
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

/// Turns heads towards each other first, which changes no attention score and no output, then takes
/// means (generalised Procrustes, Gower 1975). K: one angle a rotary plane and head, minimising
/// sum_h ||e^{jθ_h} z_h - c||²_Σ, where z_h = K_h[i] + j K_h[i + head_dim / 2], c the mean, and
/// queries turn along; such rotations commute with RoPE. V: an orthogonal R_h a head, minimising
/// sum_h ||R_h V_h - mean||²_Σ; O_h becomes O_h R_hᵀ. Started at no rotation, so never worse than
/// mean under Σ.
LayerProjections align_heads(const LayerProjections& layer, int64_t n_kv_head,
                             const MethodContext& context);
/// The optimum in closed form. K: of all k_h = v_h c, v_h complex, a plane at a time, minimises
/// sum_h w_h ||z_h - v_h c||²_Σ with w_h the energy of head h's queries: u the top eigenvector of
/// W^½ Z Σ Zᴴ W^½, c = sum_h conj(u_h) w_h^½ z_h, v_h = u_h / w_h^½, and queries become conj(v_h)
/// q_h. V: minimises sum_h ||B_h^½ (V_h - M_h V)||²_Σ with B_h = sum of O_jᵀ O_j over the head's
/// queries: U the top head_dim eigenvectors of S Σ Sᵀ, S = [B_h^½ V_h] stacked, V = Uᵀ S, M_h =
/// B_h^-½ U_h, and O_j becomes O_j M_h.
LayerProjections pca_heads(const LayerProjections& layer, int64_t n_kv_head,
                           const MethodContext& context);

}  // namespace regroup
