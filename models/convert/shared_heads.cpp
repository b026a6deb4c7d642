#include "models/convert/shared_heads.h"

namespace regroup {

using torch::Tensor;

LayerProjections pool_groups(const LayerProjections& layer, int64_t n_kv_head,
                             const std::function<HeadGroup(const HeadGroup&)>& pool) {
  const auto& shape = layer.shape;
  if (n_kv_head == shape.n_kv_head) return layer;
  const int64_t n = shape.n_kv_head / n_kv_head, s = shape.n_head / shape.n_kv_head;
  const auto wide = [](const Tensor& weight) { return weight.to(torch::kFloat64); };
  const auto k = wide(layer.k_proj).view({n_kv_head, n, shape.head_dim, -1});
  const auto v = wide(layer.v_proj).view({n_kv_head, n, shape.head_dim, -1});
  const auto q = wide(layer.q_proj).view({n_kv_head, n, s, shape.head_dim, -1});
  const auto o = wide(layer.o_proj)
                     .t()
                     .contiguous()
                     .view({n_kv_head, n, s, shape.head_dim, -1})
                     .transpose(-1, -2);

  std::vector<Tensor> keys, values, queries, outputs;
  for (int64_t group = 0; group < n_kv_head; ++group) {
    const auto pooled = pool({k[group], v[group], q[group], o[group]});
    keys.push_back(pooled.k);
    values.push_back(pooled.v);
    queries.push_back(pooled.q.flatten(0, 2));                    // [n * s * head_dim, d_model]
    outputs.push_back(pooled.o.transpose(-1, -2).flatten(0, 2));  // the same, of columns
  }
  const auto joined = [](const std::vector<Tensor>& parts, const Tensor& like) {
    return torch::cat(parts).to(like.scalar_type());
  };
  return {{shape.n_head, n_kv_head, shape.head_dim},
          joined(queries, layer.q_proj),
          joined(keys, layer.k_proj),
          joined(values, layer.v_proj),
          joined(outputs, layer.o_proj).t().contiguous()};
}

Tensor as_planes(const Tensor& rows) {
  const auto halves = rows.chunk(2, -2);
  return torch::complex(halves[0].contiguous(), halves[1].contiguous());
}

Tensor as_rows(const Tensor& planes) {
  return torch::cat({torch::real(planes), torch::imag(planes)}, -2);
}

Tensor weighted_products(const Tensor& a, const Tensor& b, const Tensor& second_moment) {
  const auto weighted = second_moment.defined() ? a.matmul(second_moment.to(a.scalar_type())) : a;
  return weighted.matmul(b.mH());
}

}  // namespace regroup
