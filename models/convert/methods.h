// models/convert/methods.h: the methods that merge the K/V heads of a group into one. A method is a
// function from a group of heads to the group with one K/V head; one table lists all methods.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/convert/head_group.h"

namespace regroup {

/// What a method may use besides the group.
struct MethodContext {
  InputMoments moments = {};
  uint64_t seed = 0;  // of the method random, together with layer and group
  int64_t layer = 0, group = 0;
};

struct ConversionMethod {
  std::string name;
  std::string summary;
  PooledGroup (*pool)(const HeadGroup& group, const MethodContext& context);
  bool uses_moments = false;   // calibration improves its result
  bool turns_queries = false;  // changes q and o; other methods get them in the layer's dtype
  bool draws_anew = false;     // replaces even the only head of a group
};

/// All methods. To add one, write its file beside this one and add a line to methods.cpp.
const std::vector<ConversionMethod>& conversion_methods();
std::vector<std::string> conversion_method_names();
/// Throws a request Error that lists the known names.
const ConversionMethod& conversion_method(const std::string& name);

/// The new head is the mean of the group's heads (Ainslie et al. 2023, section 2.1): the choice
/// that minimises sum_h ||K - K_h||². Sums in float64. The mean of equal heads is that head, bit
/// for bit.
PooledGroup mean_heads(const HeadGroup& group, const MethodContext& context);
/// The new head is the first head of the group.
PooledGroup first_heads(const HeadGroup& group, const MethodContext& context);
/// The new head is drawn from a normal distribution with the standard deviation of the group's
/// projection.
PooledGroup random_heads(const HeadGroup& group, const MethodContext& context);

/// Rotates heads towards each other, which changes no attention score and no output, then takes
/// means (generalised Procrustes, Gower 1975). K: one angle per rotary plane and head, minimising
/// sum_h ||e^{jθ_h} z_h - c||²_Σ, where z_h = K_h[i] + j K_h[i + rotary_dim / 2], c the mean, and
/// queries rotate along; such rotations commute with RoPE. V, and dims of K that RoPE does not
/// rotate: an orthogonal R_h per head, minimising sum_h ||R_h V_h - mean||²_Σ̄ (Σ for K); O_h
/// becomes O_h R_hᵀ. The search starts without rotation, so the result is never worse than mean
/// under Σ. With a norm on queries and keys it is exact only where the norm's gain is equal in both
/// dims of a plane.
PooledGroup align_heads(const HeadGroup& group, const MethodContext& context);

/// The optimum in closed form. K: for each plane, over all k_h = v_h c with complex v_h, minimises
/// sum_h w_h ||z_h - v_h c||²_Σ with w_h the energy of head h's queries: u the top eigenvector of
/// W^½ Z Σ Zᴴ W^½, c = sum_h conj(u_h) w_h^½ z_h, v_h = u_h / w_h^½, and queries become conj(v_h)
/// q_h. V: minimises sum_h ||B_h^½ (V_h - M_h V)||²_Σ̄ with B_h = sum of O_jᵀ O_j over the head's
/// queries: U the top head_dim eigenvectors of S Σ̄ Sᵀ, S = [B_h^½ V_h] stacked, V = Uᵀ S, M_h =
/// B_h^-½ U_h, and O_j becomes O_j M_h. Dims of K that RoPE does not rotate: as V, under Σ,
/// with B_h = E[q qᵀ], and q_j becomes M_hᵀ q_j. Where a norm of queries and keys or a clip would
/// take back what v_h and M_h scale, heads are only rotated (by the phase of v_h, and by the
/// orthogonal matrix that turns V nearest to V_h under Σ̄), and the shared head is the mean of the
/// heads rotated back.
PooledGroup pca_heads(const HeadGroup& group, const MethodContext& context);

}  // namespace regroup
