#include "models/convert/head_group.h"

namespace regroup {
namespace {

using torch::Tensor;

/// E[q̂ q̂'* ] E[k̂ k̂'*]* summed over heads: the inner product of two sets of scores. The dims of a
/// head that RoPE does not rotate are one form, qᵀ k. Each plane is a separate form, whose real
/// part varies with the position; this gives the factor one half.
double score_product(const HeadGroup& a, const HeadGroup& b, const Tensor& second_moment) {
  const auto aq = split_rows(a.q, a.rotary_dim), bq = split_rows(b.q, b.rotary_dim);
  const auto ak = split_rows(a.k, a.rotary_dim), bk = split_rows(b.k, b.rotary_dim);
  const auto plane_products = [&](const Tensor& x, const Tensor& y) {  // one per plane
    return weighted_products(x.unsqueeze(-2), y.unsqueeze(-2), second_moment).flatten(-3);
  };
  const auto turned = torch::real(plane_products(aq.planes, bq.planes).conj() *
                                  plane_products(ak.planes, bk.planes).unsqueeze(1));
  const auto still = weighted_products(aq.still, bq.still, second_moment) *
                     weighted_products(ak.still, bk.still, second_moment).unsqueeze(1);
  return turned.sum().item<double>() / 2 + still.sum().item<double>();
}

/// E[<O_j V_h x, O'_j V'_h x>] summed over heads.
double output_product(const HeadGroup& a, const HeadGroup& b, const Tensor& second_moment) {
  const auto written = a.o.mT().matmul(b.o).sum(1);  // [n, head_dim, head_dim]
  return (written * weighted_products(a.v, b.v, second_moment)).sum().item<double>();
}

}  // namespace

Tensor as_planes(const Tensor& rows) {
  const auto halves = rows.chunk(2, -2);
  return torch::complex(halves[0].contiguous(), halves[1].contiguous());
}

Tensor as_rows(const Tensor& planes) {
  return torch::cat({torch::real(planes), torch::imag(planes)}, -2);
}

SplitRows split_rows(const Tensor& rows, int64_t rotary_dim) {
  return {as_planes(rows.narrow(-2, 0, rotary_dim)),
          rows.narrow(-2, rotary_dim, rows.size(-2) - rotary_dim)};
}

Tensor join_rows(const SplitRows& parts) {
  return torch::cat({as_rows(parts.planes), parts.still}, -2);
}

Tensor phase(const Tensor& z) {
  const auto size = z.abs();
  return torch::where(size.gt(0), z / size, torch::ones_like(z));
}

Tensor weighted_products(const Tensor& a, const Tensor& b, const Tensor& second_moment) {
  const auto weighted = second_moment.defined() ? a.matmul(second_moment.to(a.scalar_type())) : a;
  return weighted.matmul(b.mH());
}

GroupError pooling_error(const HeadGroup& group, const PooledGroup& pooled,
                         const InputMoments& moments) {
  auto repeated = pooled;
  repeated.k = pooled.k.expand_as(group.k);
  repeated.v = pooled.v.expand_as(group.v);
  const auto squared = [&](const auto& product, const Tensor& moment) {
    return std::max(0.0, product(group, group, moment) - 2 * product(group, repeated, moment) +
                             product(repeated, repeated, moment));
  };
  return {squared(score_product, moments.seen), squared(output_product, moments.attended)};
}

GroupError group_energy(const HeadGroup& group, const InputMoments& moments) {
  return {score_product(group, group, moments.seen),
          output_product(group, group, moments.attended)};
}

}  // namespace regroup
