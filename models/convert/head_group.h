// models/convert/head_group.h: the operand of a conversion method: K/V heads that become one, and
// the query heads that read them.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace regroup {

/// n K/V heads with s query heads each, float64; q and o in the layer's dtypes where the method
/// leaves them as they are. A bias is one more column: the layer's input is
/// then x with a 1 appended, and d is d_model + 1.
struct HeadGroup {
  torch::Tensor k, v;  // [n, head_dim, d]
  torch::Tensor q;     // [n, s, head_dim, d]
  torch::Tensor o;     // [n, s, d_model, head_dim]
  int64_t rotary_dim;  // even; RoPE rotates dims i and i + rotary_dim / 2 of a head together
  // False where a norm or a clip follows the projection: it takes back what a method scales, so
  // that heads may only be rotated.
  bool k_may_scale = true, v_may_scale = true;

  int64_t size() const { return k.size(0); }
};

/// A group whose K/V heads were merged: k, v: [1, head_dim, d], q and o in the same shapes as
/// before.
using PooledGroup = HeadGroup;

/// The dims that RoPE rotates, with each plane of two dims as one complex row: dims i and
/// i + rotary_dim / 2 are the real and imaginary parts of row i. rows: [..., rotary_dim, d] ->
/// [..., rotary_dim / 2, d] complex, and back.
torch::Tensor as_planes(const torch::Tensor& rows);
torch::Tensor as_rows(const torch::Tensor& planes);

/// rows: [..., head_dim, d] -> the first rotary_dim dims as planes, and the remaining dims
/// unchanged.
struct SplitRows {
  torch::Tensor planes, still;
};
SplitRows split_rows(const torch::Tensor& rows, int64_t rotary_dim);
torch::Tensor join_rows(const SplitRows& parts);

/// z / |z|, and 1 where z is 0.
torch::Tensor phase(const torch::Tensor& z);

/// <a_i, b_j> under the inputs' second moment: a Σ bᴴ over the last two axes. An undefined Σ is the
/// identity.
torch::Tensor weighted_products(const torch::Tensor& a, const torch::Tensor& b,
                                const torch::Tensor& second_moment);

/// Second moments of a layer's normed inputs x: [d, d] float64. An undefined moment is the
/// identity.
struct InputMoments {
  torch::Tensor seen = {};  // Σ = E[x xᵀ], for queries and keys
  torch::Tensor attended = {};  // Σ̄ = E[x̄ x̄ᵀ], x̄ the mean of x that a head attends to; for values
};

/// The error of pooling a group, as expected squares: of attention scores, for q and k at
/// independent positions, plane by plane (the phases of different planes are uncorrelated over
/// positions); and of the heads' outputs, ||O_j V_h x̄ - O'_j V' x̄||².
struct GroupError {
  double scores = 0, outputs = 0;
};
GroupError pooling_error(const HeadGroup& group, const PooledGroup& pooled,
                         const InputMoments& moments);

/// The expected squares of the group itself, to which an error is relative.
GroupError group_energy(const HeadGroup& group, const InputMoments& moments);

}  // namespace regroup
