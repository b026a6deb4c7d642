// models/convert/shared_heads.h: what methods share that also change the query heads and output
// columns: one group of K/V heads at a time, in float64.
#pragma once

#include <torch/types.h>

#include <functional>

#include "models/convert/methods.h"

namespace regroup {

/// n K/V heads that are to become one, and the query heads that read them, s to a head; float64.
struct HeadGroup {
  torch::Tensor k, v;  // [n, head_dim, d_model]; pooled: [head_dim, d_model]
  torch::Tensor q;     // [n, s, head_dim, d_model]
  torch::Tensor o;     // [n, s, d_model, head_dim]
};

/// The layer with each group of neighbouring K/V heads replaced by what pool makes of it. A group
/// of one head stays as it is, bit for bit. Keeps every tensor's dtype.
LayerProjections pool_groups(const LayerProjections& layer, int64_t n_kv_head,
                             const std::function<HeadGroup(const HeadGroup&)>& pool);

/// Rotary planes as complex numbers: rows i and i + head_dim / 2 of the half-split layout become
/// the real and imaginary part of row i. rows: [..., head_dim, d] -> [..., head_dim / 2, d]
/// complex; and back.
torch::Tensor as_planes(const torch::Tensor& rows);
torch::Tensor as_rows(const torch::Tensor& planes);

/// <a_i, b_j> under the inputs' second moment: a Σ bᴴ over the last two axes, with Σ the identity
/// where it is undefined.
torch::Tensor weighted_products(const torch::Tensor& a, const torch::Tensor& b,
                                const torch::Tensor& second_moment);

}  // namespace regroup
