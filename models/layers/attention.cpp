#include "models/layers/attention.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"
#include "models/layers/heads.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct SavedConfig : torch::CustomClassHolder {
  explicit SavedConfig(const AttentionConfig& of_layer) : config(of_layer) {}
  AttentionConfig config;
};

/// Rotation and attention of packed heads, whose gradient is packed as well, so that neither
/// direction copies a head.
struct RotaryAttention : Function<RotaryAttention> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv, const AttentionConfig& config,
                        const RopeAngles& angles) {
    const auto heads = all_heads(qkv, config);
    rotate_queries_and_keys(heads, config, angles, 1);
    const auto [outputs, log_sums] = kernels::attention(heads, config.n_head, config.scores);
    context->save_for_backward({heads, outputs, log_sums, angles.cos, angles.sin});
    context->saved_data["config"] =
        c10::IValue::make_capsule(c10::make_intrusive<SavedConfig>(config));
    return outputs;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto capsule = context->saved_data["config"].toCapsule();
    const auto& config = static_cast<const SavedConfig&>(*capsule).config;
    const auto saved = context->get_saved_variables();
    const auto grad_heads = kernels::attention_backward(
        saved[0], config.n_head, config.scores, {saved[1], saved[2]}, grads[0].contiguous());
    rotate_queries_and_keys(grad_heads, config, {saved[3], saved[4]}, -1);
    return {grad_heads.flatten(2), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor attention(const Tensor& qkv, const AttentionConfig& config, const RopeAngles& angles) {
  return RotaryAttention::apply(qkv, config, angles);
}

Tensor cached_attention(const Tensor& qkv, const AttentionConfig& config, const RopeAngles& angles,
                        LayerCache& cache, int64_t past) {
  const torch::NoGradGuard no_grad;
  const auto heads = all_heads(qkv, config);
  rotate_queries_and_keys(heads, config, angles, 1);
  const int64_t positions = qkv.size(1);
  const auto store = [&](const Tensor& cached, int64_t first_head) {
    cached.narrow(2, past, positions)
        .copy_(heads.narrow(2, first_head, config.n_kv_head).transpose(1, 2));
  };
  store(cache.keys, config.n_head);
  store(cache.values, config.n_head + config.n_kv_head);
  if (past == 0 && positions > 1)
    return kernels::attention(heads, config.n_head, config.scores).outputs;
  return kernels::decode_attention(heads.narrow(2, 0, config.n_head), cache.keys, cache.values,
                                   past, config.scores);
}

}  // namespace regroup
