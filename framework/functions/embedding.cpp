#include "framework/functions/embedding.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include "framework/kernels/operands.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Embedding : Function<Embedding> {
  static Tensor forward(AutogradContext* context, const Tensor& table, const Tensor& tokens) {
    context->save_for_backward({tokens});
    context->saved_data["vocab_size"] = table.size(0);
    return at::embedding(table, tokens);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto tokens = context->get_saved_variables()[0];
    const auto& grad = grads[0];
    const auto grad_table = at::embedding_dense_backward(
        kernels::widened(grad), tokens, context->saved_data["vocab_size"].toInt(),
        /*padding_idx=*/-1, /*scale_grad_by_freq=*/false);
    return {grad_table.to(grad.scalar_type()), Tensor()};
  }
};

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& tokens) {
  return Embedding::apply(table, tokens);
}

}  // namespace regroup
