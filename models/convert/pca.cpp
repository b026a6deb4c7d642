// The method pca: the shared head that loses least of what queries and the output projection see,
// in closed form.
#include <torch/types.h>

#include "models/convert/shared_heads.h"

namespace regroup {
namespace {

using torch::Tensor;

/// What c must be multiplied with to stand for each head, k_h = factor_h c, and c, a plane at a
/// time.
struct SharedKey {
  Tensor key;      // [planes, d_model] complex
  Tensor factors;  // [n, planes] complex
};

/// keys: [n, planes, d_model], queries: [n, s, planes, d_model], complex.
SharedKey shared_key(const Tensor& keys, const Tensor& queries, const Tensor& second_moment) {
  const auto by_plane = keys.transpose(0, 1);  // [planes, n, d_model]
  const auto gram = weighted_products(by_plane, by_plane, second_moment);
  const auto rows = queries.unsqueeze(-2);  // [n, s, planes, 1, d_model]
  const auto energy = torch::real(weighted_products(rows, rows, second_moment))
                          .flatten(2)
                          .sum(1);                                     // w: [n, planes]
  const auto root = energy.clamp_min(0).sqrt().t();                    // [planes, n]
  const auto weighted = root.unsqueeze(2) * gram * root.unsqueeze(1);  // W^1/2 Z Σ Zᴴ W^1/2
  const auto u = std::get<1>(torch::linalg_eigh(weighted, "L"))
                     .select(2, -1);  // [planes, n], of the largest eigenvalue
  const auto inverse_root = torch::where(root.gt(0), 1 / root, torch::zeros_like(root));
  const auto factors = (u * inverse_root).t();                                  // v_h
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

/// The shared value, and of every head the matrix that makes its own of it: V_h = maps_h V.
struct SharedValue {
  Tensor value;  // [head_dim, d_model]
  Tensor maps;   // [n, head_dim, head_dim]
};

/// values: [n, head_dim, d_model], outputs: [n, s, d_model, head_dim].
SharedValue shared_value(const Tensor& values, const Tensor& outputs, const Tensor& second_moment) {
  const int64_t head_dim = values.size(1);
  const auto sensitivity = roots(outputs.mT().matmul(outputs).sum(1));  // B_h = sum of O_jᵀ O_j
  const auto stacked = sensitivity.root.matmul(values).flatten(0, 1);  // S: [n * head_dim, d_model]
  const auto moment = weighted_products(stacked, stacked, second_moment);
  const auto basis =
      std::get<1>(torch::linalg_eigh(moment, "L")).narrow(1, stacked.size(0) - head_dim, head_dim);
  const auto value = basis.t().matmul(stacked);
  const auto maps = sensitivity.inverse.matmul(basis.view({-1, head_dim, head_dim}));
  const auto size =
      value.norm() / values.square().sum({1, 2}).mean().sqrt();  // the heads' own size is kept
  const auto sound = torch::where(size.gt(0), size, torch::ones_like(size));
  return {value / sound, maps * sound};
}

}  // namespace

LayerProjections pca_heads(const LayerProjections& layer, int64_t n_kv_head,
                           const MethodContext& context) {
  return pool_groups(layer, n_kv_head, [&](const HeadGroup& group) {
    const auto queries = as_planes(group.q);
    const auto [key, factors] = shared_key(as_planes(group.k), queries, context.second_moment);
    const auto [value, maps] = shared_value(group.v, group.o, context.second_moment);
    return HeadGroup{as_rows(key), value,
                     as_rows(factors.conj().unsqueeze(1).unsqueeze(-1) * queries),
                     group.o.matmul(maps.unsqueeze(1))};
  });
}

}  // namespace regroup
