// The method align: rotates heads towards each other, which does not change the model's function,
// and then averages them.
#include <torch/types.h>

#include "models/convert/methods.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr int kMostRounds = 200;
constexpr double kConverged = 1e-14;  // relative gain of a round

/// The rotation of each head and plane that aligns the keys. keys: [n, planes, d] complex
/// -> [n, planes], of absolute value 1. Each head in turn takes the angle that aligns it best with
/// the sum of the other heads.
Tensor key_rotations(const Tensor& keys, const Tensor& second_moment) {
  const auto by_plane = keys.transpose(0, 1);  // [planes, n, d]
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

/// The orthogonal matrix of each head that aligns the heads. heads: [n, dims, d] -> [n, dims,
/// dims]. Each head in turn solves the orthogonal Procrustes problem against the sum of the other
/// heads.
Tensor head_rotations(const Tensor& heads, const Tensor& second_moment) {
  const int64_t n = heads.size(0), dims = heads.size(1);
  const auto rows = heads.flatten(0, 1);
  const auto gram = weighted_products(rows, rows, second_moment).view({n, dims, n, dims});
  const auto rotations = torch::eye(dims, heads.options()).repeat({n, 1, 1});
  double before = 0;
  for (int round = 0; round < kMostRounds; ++round) {
    for (int64_t h = 0; h < n; ++h) {
      auto others = torch::zeros({dims, dims}, heads.options());  // (sum of R_k V_k) Σ V_hᵀ
      for (int64_t k = 0; k < n; ++k) {
        if (k != h) others += rotations[k].matmul(gram.select(0, k).select(1, h));
      }
      const auto [u, singular, wt] =
          torch::linalg_svd(others, /*full_matrices=*/false, /*driver=*/{});
      rotations[h].copy_(u.matmul(wt));
    }
    const auto turned = rotations.matmul(heads).sum(0);
    const double together = weighted_products(turned, turned, second_moment).trace().item<double>();
    if (together - before <= kConverged * together) break;
    before = together;
  }
  return rotations;
}

}  // namespace

PooledGroup align_heads(const HeadGroup& group, const MethodContext& context) {
  const auto k = split_rows(group.k, group.rotary_dim), q = split_rows(group.q, group.rotary_dim);
  const auto turn = key_rotations(k.planes, context.moments.seen).unsqueeze(-1);  // [n, planes, 1]
  const auto still = head_rotations(k.still, context.moments.seen);
  const auto rotation = head_rotations(group.v, context.moments.attended);
  const auto mean = [](const Tensor& heads) { return heads.mean(0, /*keepdim=*/true); };
  return {mean(join_rows({turn * k.planes, still.matmul(k.still)})), mean(rotation.matmul(group.v)),
          join_rows({turn.unsqueeze(1) * q.planes, still.unsqueeze(1).matmul(q.still)}),
          group.o.matmul(rotation.mT().unsqueeze(1)), group.rotary_dim};
}

}  // namespace regroup
