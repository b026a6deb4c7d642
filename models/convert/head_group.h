// models/convert/head_group.h: K/V heads that are to become one, and the query heads that read
// them: what a conversion method works on.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace regroup {

/// n K/V heads and s query heads to each, float64. A bias is a further column (the layer's input
/// is then x with a 1 below it, and d stands for d_model + 1).
struct HeadGroup {
  torch::Tensor k, v;  // [n, head_dim, d]
  torch::Tensor q;     // [n, s, head_dim, d]
  torch::Tensor o;     // [n, s, d_model, head_dim]
  int64_t rotary_dim;  // RoPE turns dims i and i + rotary_dim / 2 of a head together; even

  int64_t size() const { return k.size(0); }
};

/// A group whose K/V heads were made one: k, v: [1, head_dim, d], q and o as before.
using PooledGroup = HeadGroup;

/// The heads' dims that RoPE turns, a plane of two dims as one complex row: dims i and
/// i + rotary_dim / 2 become the real and imaginary part of row i. rows: [..., rotary_dim, d] ->
/// [..., rotary_dim / 2, d] complex; and back.
torch::Tensor as_planes(const torch::Tensor& rows);
torch::Tensor as_rows(const torch::Tensor& planes);

/// rows: [..., head_dim, d] -> the first rotary_dim dims as planes, and the others as they are.
struct SplitRows {
  torch::Tensor planes, still;
};
SplitRows split_rows(const torch::Tensor& rows, int64_t rotary_dim);
torch::Tensor join_rows(const SplitRows& parts);

/// <a_i, b_j> under the inputs' second moment: a Σ bᴴ over the last two axes, with Σ the identity
/// where it is undefined.
torch::Tensor weighted_products(const torch::Tensor& a, const torch::Tensor& b,
                                const torch::Tensor& second_moment);

/// What is known of a layer's normed inputs x: second moments, [d, d] float64; undefined: the
/// identity.
struct InputMoments {
  torch::Tensor seen = {};  // Σ = E[x xᵀ]: of what queries and keys are made of
  torch::Tensor attended = {};  // Σ̄ = E[x̄ x̄ᵀ], x̄ the mean of x that a head attends to: of values
};

/// What pooling does to a group, as expected squares: of attention scores, q and k of independent
/// positions, a rotary plane at a time (phases of different planes are uncorrelated over
/// positions), and of what the heads write, ||O_j V_h x̄ - O'_j V' x̄||².
struct GroupError {
  double scores = 0, outputs = 0;
};
GroupError pooling_error(const HeadGroup& group, const PooledGroup& pooled,
                         const InputMoments& moments);

/// The same expected squares of the group itself: what an error is a share of.
GroupError group_energy(const HeadGroup& group, const InputMoments& moments);

}  // namespace regroup
