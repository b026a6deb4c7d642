#include "models/layers/heads.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Queries, keys and values as [B, heads, T, head_dim] views.
variable_list split(const Tensor& heads, const AttentionConfig& config) {
  const auto part = [&](int64_t first, int64_t count) {
    return heads.narrow(2, first, count).transpose(1, 2);
  };
  return {part(0, config.n_head), part(config.n_head, config.n_kv_head),
          part(config.n_head + config.n_kv_head, config.n_kv_head)};
}

/// qkv -> rotated queries, rotated keys, and values, without a copy. Backward packs their gradients
/// into one tensor.
struct RotaryQkv : Function<RotaryQkv> {
  static variable_list forward(AutogradContext* context, const Tensor& qkv,
                               const RopeAngles& angles, int64_t n_head, int64_t n_kv_head,
                               int64_t head_dim) {
    const AttentionConfig config{n_head, n_kv_head, head_dim};
    context->save_for_backward({angles.cos, angles.sin});
    context->saved_data["n_head"] = n_head;
    context->saved_data["n_kv_head"] = n_kv_head;
    context->saved_data["head_dim"] = head_dim;
    const auto heads = all_heads(qkv, config);
    rotate_queries_and_keys(heads, config, angles, 1);
    return split(heads, config);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const AttentionConfig config{context->saved_data["n_head"].toInt(),
                                 context->saved_data["n_kv_head"].toInt(),
                                 context->saved_data["head_dim"].toInt()};
    const auto angles = context->get_saved_variables();
    const int64_t batch = grads[0].size(0), positions = grads[0].size(2);
    const int64_t n_heads = config.n_head + 2 * config.n_kv_head;
    const auto heads =
        torch::empty({batch, positions, n_heads, config.head_dim}, grads[0].options());
    const auto parts = split(heads, config);
    for (size_t i = 0; i < parts.size(); ++i) parts[i].copy_(grads[i]);
    rotate_queries_and_keys(heads, config, {angles[0], angles[1]}, -1);
    return {heads.flatten(2), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor all_heads(const Tensor& qkv, const AttentionConfig& config) {
  return qkv.detach().view(
      {qkv.size(0), qkv.size(1), config.n_head + 2 * config.n_kv_head, config.head_dim});
}

void rotate_queries_and_keys(const Tensor& heads, const AttentionConfig& config,
                             const RopeAngles& angles, int direction) {
  if (angles.cos.defined())
    rotate_(heads.narrow(2, 0, config.n_head + config.n_kv_head), angles, direction);
}

Heads rotated_heads(const Tensor& qkv, const AttentionConfig& config, const RopeAngles& angles) {
  variable_list parts;
  if (torch::GradMode::is_enabled()) {
    parts = RotaryQkv::apply(qkv, angles, config.n_head, config.n_kv_head, config.head_dim);
  } else {
    const auto heads = all_heads(qkv, config);
    rotate_queries_and_keys(heads, config, angles, 1);
    parts = split(heads, config);
  }
  return {parts[0], parts[1], parts[2]};
}

}  // namespace regroup
