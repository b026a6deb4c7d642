// models/convert/methods.h: how the K/V heads of a group become one. A method is a function from a
// group of heads to the group with one K/V head; all methods stand in one table.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/convert/head_group.h"

namespace regroup {

/// What a method may draw on beside the group itself.
struct MethodContext {
  InputMoments moments = {};
  uint64_t seed = 0;  // of the method random, with layer and group
  int64_t layer = 0, group = 0;
};

struct ConversionMethod {
  std::string name;
  std::string summary;
  PooledGroup (*pool)(const HeadGroup& group, const MethodContext& context);
  bool uses_moments;  // gains from calibration
  bool draws_anew;    // also where a group has one head
};

/// All methods. Adding one: a file beside this, and a line in methods.cpp.
const std::vector<ConversionMethod>& conversion_methods();
std::vector<std::string> conversion_method_names();
/// Throws a request Error that lists the known names.
const ConversionMethod& conversion_method(const std::string& name);

/// The new head is the mean of the group's heads (Ainslie et al. 2023, section 2.1): the choice
/// that minimises sum_h ||K - K_h||². Sums in float64. Equal heads give themselves, bit for bit.
PooledGroup mean_heads(const HeadGroup& group, const MethodContext& context);
/// The new head is the first head of the group.
PooledGroup first_heads(const HeadGroup& group, const MethodContext& context);
/// A head is drawn anew, normal with the standard deviation of the group's projection.
PooledGroup random_heads(const HeadGroup& group, const MethodContext& context);

/// Turns heads towards each other first, which changes no attention score and no output, then takes
/// means (generalised Procrustes, Gower 1975). K: one angle a rotary plane and head, minimising
/// sum_h ||e^{jθ_h} z_h - c||²_Σ, where z_h = K_h[i] + j K_h[i + rotary_dim / 2], c the mean, and
/// queries turn along; such rotations commute with RoPE. V, and dims of K that RoPE leaves alone:
/// an orthogonal R_h a head, minimising sum_h ||R_h V_h - mean||²_Σ̄ (Σ for K); O_h becomes O_h
/// R_hᵀ. Started at no rotation, so never worse than mean under Σ. A norm on queries and keys
/// commutes with neither but where its gain is equal in both dims of a plane.
PooledGroup align_heads(const HeadGroup& group, const MethodContext& context);

/// The optimum in closed form. K: of all k_h = v_h c, v_h complex, a plane at a time, minimises
/// sum_h w_h ||z_h - v_h c||²_Σ with w_h the energy of head h's queries: u the top eigenvector of
/// W^½ Z Σ Zᴴ W^½, c = sum_h conj(u_h) w_h^½ z_h, v_h = u_h / w_h^½, and queries become conj(v_h)
/// q_h. V: minimises sum_h ||B_h^½ (V_h - M_h V)||²_Σ̄ with B_h = sum of O_jᵀ O_j over the head's
/// queries: U the top head_dim eigenvectors of S Σ̄ Sᵀ, S = [B_h^½ V_h] stacked, V = Uᵀ S, M_h =
/// B_h^-½ U_h, and O_j becomes O_j M_h. Dims of K that RoPE leaves alone: the same as V under Σ,
/// with B_h = E[q qᵀ], and q_j becomes M_hᵀ q_j. With a norm on queries and keys the scaling by v_h
/// is lost.
PooledGroup pca_heads(const HeadGroup& group, const MethodContext& context);

}  // namespace regroup
