// The method align: heads are turned towards each other, which leaves the model's function
// unchanged, then averaged.
#include <torch/types.h>

#include "models/convert/shared_heads.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr int kMostRounds = 200;
constexpr double kConverged = 1e-14;  // relative gain of a round

/// z / |z|, and 1 where z is 0.
Tensor phase(const Tensor& z) {
  const auto size = z.abs();
  return torch::where(size.gt(0), z / size, torch::ones_like(z));
}

/// The rotation of every head and plane that brings keys together. keys: [n, planes, d_model]
/// complex -> [n, planes], of absolute value 1. Each head in turn takes the angle that is best
/// against the sum of the others.
Tensor key_rotations(const Tensor& keys, const Tensor& second_moment) {
  const auto by_plane = keys.transpose(0, 1);  // [planes, n, d_model]
  const auto gram =
      weighted_products(by_plane, by_plane, second_moment);  // [planes, n, n]: z_h Σ z_kᴴ
  const auto rotations = torch::ones({by_plane.size(0), keys.size(0)}, gram.options());
  double before = 0;
  for (int round = 0; round < kMostRounds; ++round) {
    for (int64_t h = 0; h < keys.size(0); ++h) {
      const auto toward = (rotations * gram.select(2, h)).sum(1) -
                          rotations.select(1, h) * gram.select(1, h).select(1, h);
      rotations.select(1, h).copy_(phase(toward));
    }
    const auto turned = rotations.unsqueeze(2) * gram * rotations.conj().unsqueeze(1);
    const double together = torch::real(turned).sum().item<double>();  // |sum of the rotated keys|²
    if (together - before <= kConverged * std::abs(together)) break;
    before = together;
  }
  return rotations.t();
}

/// The orthogonal matrix of every head that brings values together. values: [n, head_dim, d_model]
/// -> [n, head_dim, head_dim]. Each head in turn solves the orthogonal Procrustes problem against
/// the sum of the others.
Tensor value_rotations(const Tensor& values, const Tensor& second_moment) {
  const int64_t n = values.size(0), head_dim = values.size(1);
  const auto rows = values.flatten(0, 1);
  const auto gram = weighted_products(rows, rows, second_moment).view({n, head_dim, n, head_dim});
  const auto rotations = torch::eye(head_dim, values.options()).repeat({n, 1, 1});
  double before = 0;
  for (int round = 0; round < kMostRounds; ++round) {
    double together = 0;
    for (int64_t h = 0; h < n; ++h) {
      auto others =
          torch::zeros({head_dim, head_dim}, values.options());  // (sum of R_k V_k) Σ V_hᵀ
      for (int64_t k = 0; k < n; ++k) {
        if (k != h) others += rotations[k].matmul(gram.select(0, k).select(1, h));
      }
      const auto [u, singular, wt] =
          torch::linalg_svd(others, /*full_matrices=*/false, /*driver=*/{});
      rotations[h].copy_(u.matmul(wt));
      together += singular.sum().item<double>();
    }
    if (together - before <= kConverged * together) break;
    before = together;
  }
  return rotations;
}

}  // namespace

LayerProjections align_heads(const LayerProjections& layer, int64_t n_kv_head,
                             const MethodContext& context) {
  return pool_groups(layer, n_kv_head, [&](const HeadGroup& group) {
    const auto keys = as_planes(group.k);
    const auto turn = key_rotations(keys, context.second_moment).unsqueeze(-1);  // [n, planes, 1]
    const auto rotation = value_rotations(group.v, context.second_moment);
    return HeadGroup{as_rows(turn * keys).mean(0), rotation.matmul(group.v).mean(0),
                     as_rows(turn.unsqueeze(1) * as_planes(group.q)),
                     group.o.matmul(rotation.transpose(1, 2).unsqueeze(1))};
  });
}

}  // namespace regroup
