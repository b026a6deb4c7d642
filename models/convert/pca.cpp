// The method pca: the shared head that loses least for queries and the output projection, in closed
// form.
#include <torch/types.h>

#include "models/convert/methods.h"

namespace regroup {
namespace {

using torch::Tensor;

/// For each plane, the shared key c and the factor of each head, k_h = factor_h c.
struct SharedKey {
  Tensor key;      // [planes, d] complex
  Tensor factors;  // [n, planes] complex
};

/// Pools keys where heads may only be rotated: the mean of the keys, each turned back by the phase
/// of its factor. Phases are relative to their mean, so that equal keys stay as they are.
SharedKey only_rotated(const Tensor& keys, const Tensor& factors) {
  const auto phases = phase(factors);
  const auto turn = phases * phase(phases.sum(0, /*keepdim=*/true)).conj();
  return {(turn.conj().unsqueeze(-1) * keys).mean(0), turn};
}

/// keys: [n, planes, d], queries: [n, s, planes, d], complex.
SharedKey shared_key(const Tensor& keys, const Tensor& queries, const Tensor& second_moment,
                     bool may_scale) {
  const auto by_plane = keys.transpose(0, 1);  // [planes, n, d]
  const auto gram = weighted_products(by_plane, by_plane, second_moment);
  const auto rows = queries.unsqueeze(-2);  // [n, s, planes, 1, d]
  const auto energy = torch::real(weighted_products(rows, rows, second_moment))
                          .flatten(2)
                          .sum(1);                                     // w: [n, planes]
  const auto root = energy.clamp_min(0).sqrt().t();                    // [planes, n]
  const auto weighted = root.unsqueeze(2) * gram * root.unsqueeze(1);  // W^1/2 Z Σ Zᴴ W^1/2
  const auto u = std::get<1>(torch::linalg_eigh(weighted, "L"))
                     .select(2, -1);  // [planes, n], of the largest eigenvalue
  const auto inverse_root = torch::where(root.gt(0), 1 / root, torch::zeros_like(root));
  const auto factors = (u * inverse_root).t();  // v_h
  if (!may_scale) return only_rotated(keys, factors);
  const auto key = (u.conj() * root).unsqueeze(1).matmul(by_plane).squeeze(1);  // c
  const auto size = factors.abs().square().mean(0, /*keepdim=*/true).sqrt();    // [1, planes]
  const auto sound = torch::where(size.gt(0), size, torch::ones_like(size));
  return {key * sound.t(), factors / sound};
}

/// M^1/2 and its pseudo-inverse for symmetric positive semi-definite M: [n, d, d].
struct Roots {
  Tensor root, inverse;
};
Roots roots(const Tensor& matrices) {
  constexpr double kNegligible = 1e-12;  // of the largest eigenvalue
  const auto [values, vectors] = torch::linalg_eigh(matrices, "L");
  const auto size = values.clamp_min(0).sqrt();
  const auto kept = values.gt(kNegligible * values.amax(-1, /*keepdim=*/true));
  const auto inverse = torch::where(kept, 1 / size, torch::zeros_like(size));
  const auto with = [&, vectors = vectors](const Tensor& diagonal) {
    return (vectors * diagonal.unsqueeze(-2)).matmul(vectors.mT());
  };
  return {with(size), with(inverse)};
}

/// The shared head V of n heads, and the matrix of each head: V_h = maps_h V.
struct SharedHead {
  Tensor shared;  // [1, dims, d]
  Tensor maps;    // [n, dims, dims]
};

/// The orthogonal matrices that are nearest to matrices: [n, dims, dims].
Tensor nearest_rotations(const Tensor& matrices) {
  const auto [u, singular, wt] =
      torch::linalg_svd(matrices, /*full_matrices=*/false, /*driver=*/{});
  return u.matmul(wt);
}

/// Pools values where heads may only be rotated, as for keys: each head is turned towards the
/// shared head. Directions count by their energy, as those that the moment hardly has are noise.
SharedHead only_rotated_head(const Tensor& heads, const Tensor& shared,
                             const Tensor& second_moment) {
  const auto rotations = nearest_rotations(weighted_products(heads, shared, second_moment));
  const auto mean = nearest_rotations(rotations.sum(0, /*keepdim=*/true));
  const auto relative = rotations.matmul(mean.mT());
  return {relative.mT().matmul(heads).mean(0, /*keepdim=*/true), relative};
}

/// heads: [n, dims, d]; sensitivity: B_h, [n, dims, dims], how much an error of head h matters.
SharedHead shared_head(const Tensor& heads, const Tensor& sensitivity, const Tensor& second_moment,
                       bool may_scale) {
  const int64_t dims = heads.size(1);
  const auto weights = roots(sensitivity);
  const auto stacked = weights.root.matmul(heads).flatten(0, 1);  // S: [n * dims, d]
  const auto moment = weighted_products(stacked, stacked, second_moment);
  const auto basis =
      std::get<1>(torch::linalg_eigh(moment, "L")).narrow(1, stacked.size(0) - dims, dims);
  const auto shared = basis.t().matmul(stacked);
  if (!may_scale) return only_rotated_head(heads, shared, second_moment);
  const auto maps = weights.inverse.matmul(basis.view({-1, dims, dims}));
  const auto size =
      shared.norm() / heads.square().sum({1, 2}).mean().sqrt();  // keeps the size of the heads
  const auto sound = torch::where(size.gt(0), size, torch::ones_like(size));
  return {(shared / sound).unsqueeze(0), maps * sound};
}

/// For dims of keys that RoPE does not rotate; their sensitivity is the second moment of the
/// queries.
SharedHead shared_still_key(const Tensor& keys, const Tensor& queries, const Tensor& second_moment,
                            bool may_scale) {
  if (keys.size(1) == 0) return {keys.narrow(0, 0, 1), keys.new_zeros({keys.size(0), 0, 0})};
  return shared_head(keys, weighted_products(queries, queries, second_moment).sum(1), second_moment,
                     may_scale);
}

}  // namespace

PooledGroup pca_heads(const HeadGroup& group, const MethodContext& context) {
  const auto k = split_rows(group.k, group.rotary_dim), q = split_rows(group.q, group.rotary_dim);
  const auto [key, factors] =
      shared_key(k.planes, q.planes, context.moments.seen, group.k_may_scale);
  const auto still = shared_still_key(k.still, q.still, context.moments.seen, group.k_may_scale);
  const auto written = group.o.mT().matmul(group.o).sum(1);  // B_h = sum of O_jᵀ O_j
  const auto [value, maps] =
      shared_head(group.v, written, context.moments.attended, group.v_may_scale);
  return {join_rows({key.unsqueeze(0), still.shared}), value,
          join_rows({factors.conj().unsqueeze(1).unsqueeze(-1) * q.planes,
                     still.maps.mT().unsqueeze(1).matmul(q.still)}),
          group.o.matmul(maps.unsqueeze(1)), group.rotary_dim};
}

}  // namespace regroup
