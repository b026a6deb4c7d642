#include "models/layers/attention.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"
#include "framework/kernels/matmul.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// [B, T, heads * head_dim] -> [B, T, heads, head_dim].
Tensor with_heads(const Tensor& qkv, const AttentionShape& shape) {
  return qkv.view({qkv.size(0), qkv.size(1), shape.n_head + 2 * shape.n_kv_head, shape.head_dim});
}

/// Rotates query and key heads in place.
void rotate_queries_and_keys(const Tensor& heads, const AttentionShape& shape,
                             const RopeAngles& angles, int direction) {
  rotate_(heads.narrow(2, 0, shape.n_head + shape.n_kv_head), angles, direction);
}

/// Queries, keys and values as [B, heads, T, head_dim] views.
variable_list split(const Tensor& heads, const AttentionShape& shape) {
  const auto part = [&](int64_t first, int64_t count) {
    return heads.narrow(2, first, count).transpose(1, 2);
  };
  return {part(0, shape.n_head), part(shape.n_head, shape.n_kv_head),
          part(shape.n_head + shape.n_kv_head, shape.n_kv_head)};
}

/// qkv -> rotated queries, rotated keys, and values, without a copy. Backward packs their gradients
/// into one tensor.
struct RotaryQkv : Function<RotaryQkv> {
  static variable_list forward(AutogradContext* context, const Tensor& qkv, const Tensor& cos,
                               const Tensor& sin, int64_t n_head, int64_t n_kv_head,
                               int64_t head_dim) {
    const AttentionShape shape{n_head, n_kv_head, head_dim};
    context->save_for_backward({cos, sin});
    context->saved_data["n_head"] = n_head;
    context->saved_data["n_kv_head"] = n_kv_head;
    context->saved_data["head_dim"] = head_dim;
    const auto heads = with_heads(qkv.detach(), shape);
    rotate_queries_and_keys(heads, shape, {cos, sin}, 1);
    return split(heads, shape);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const AttentionShape shape{context->saved_data["n_head"].toInt(),
                               context->saved_data["n_kv_head"].toInt(),
                               context->saved_data["head_dim"].toInt()};
    const auto angles = context->get_saved_variables();
    const int64_t batch = grads[0].size(0), positions = grads[0].size(2);
    const int64_t n_heads = shape.n_head + 2 * shape.n_kv_head;
    const auto heads =
        torch::empty({batch, positions, n_heads, shape.head_dim}, grads[0].options());
    const auto parts = split(heads, shape);
    for (size_t i = 0; i < parts.size(); ++i) parts[i].copy_(grads[i]);
    rotate_queries_and_keys(heads, shape, {angles[0], angles[1]}, -1);
    return {heads.flatten(2), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

/// softmax(q kᵀ / sqrt(head_dim), causal) v. q: [B, n_head, T, head_dim], k, v: [B, n_kv_head, T,
/// head_dim] -> [B, T, n_head * head_dim].
Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const bool grouped = q.size(1) != k.size(1);
  const auto attend = [&](const Tensor& queries, const Tensor& keys, const Tensor& values) {
    return torch::scaled_dot_product_attention(
        queries, keys, values, /*attn_mask=*/{}, /*dropout_p=*/0.0,
        /*is_causal=*/true, /*scale=*/{}, /*enable_gqa=*/grouped);
  };
  const auto y = multiplies_widened(q)
                     ? attend(q.to(torch::kFloat32), k.to(torch::kFloat32), v.to(torch::kFloat32))
                           .to(q.scalar_type())
                     : attend(q, k, v);
  return y.transpose(1, 2).flatten(2);
}

}  // namespace

std::vector<Tensor> rotary_qkv(const Tensor& qkv, const AttentionShape& shape,
                               const RopeAngles& angles) {
  return RotaryQkv::apply(qkv, angles.cos, angles.sin, shape.n_head, shape.n_kv_head,
                          shape.head_dim);
}

Tensor attention(const Tensor& qkv, const AttentionShape& shape, const RopeAngles& angles) {
  const auto parts = rotary_qkv(qkv, shape, angles);
  return causal_attention(parts[0], parts[1], parts[2]);
}

Tensor cached_attention(const Tensor& qkv, const AttentionShape& shape, const RopeAngles& angles,
                        LayerCache& cache, int64_t past) {
  const torch::NoGradGuard no_grad;
  const auto heads = with_heads(qkv, shape);
  rotate_queries_and_keys(heads, shape, angles, 1);
  const auto parts = split(heads, shape);
  const int64_t positions = qkv.size(1);
  cache.keys.narrow(2, past, positions).copy_(parts[1]);
  cache.values.narrow(2, past, positions).copy_(parts[2]);
  if (past == 0 && positions > 1) return causal_attention(parts[0], parts[1], parts[2]);
  return kernels::decode_attention(heads.narrow(2, 0, shape.n_head), cache.keys, cache.values,
                                   past);
}

}  // namespace regroup
