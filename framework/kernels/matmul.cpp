#include "framework/kernels/matmul.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <array>

#include "framework/kernels/cpu/skinny_matmul.h"
#include "framework/kernels/kernels.h"
#include "framework/kernels/operands.h"

namespace regroup {

using kernels::widened;

torch::Tensor matmul_nt(const torch::Tensor& a, const torch::Tensor& b,
                        const torch::Tensor& residual) {
  const torch::NoGradGuard no_grad;
  if (residual.defined()) {
    const std::array<int64_t, 2> shape{a.size(0), b.size(0)};
    TORCH_CHECK(residual.sizes() == torch::IntArrayRef(shape) && residual.dtype() == a.dtype(),
                "matmul_nt: residual is ", residual.dtype(), " ", residual.sizes(), ", expected ",
                a.dtype(), " ", torch::IntArrayRef(shape));
  }
  if (kernels::cpu::skinny_matmul_serves(a, b)) {
    const auto product = kernels::cpu::skinny_matmul(a, b);
    return residual.defined() ? product + residual : product;
  }
  if (multiplies_widened(a)) {
    auto product = widened(a).mm(widened(b).t());
    if (residual.defined()) product.add_(residual);
    return product.to(a.scalar_type());
  }
  return residual.defined() ? torch::addmm(residual, a, b.t()) : a.mm(b.t());
}

torch::Tensor matmul_nn(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::NoGradGuard no_grad;
  if (multiplies_widened(a)) return widened(a).mm(widened(b)).to(a.scalar_type());
  return a.mm(b);
}

torch::Tensor matmul_tn(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::NoGradGuard no_grad;
  if (multiplies_widened(a)) return widened(a).t().mm(widened(b)).to(a.scalar_type());
  return a.t().mm(b);
}

void add_matmul_tn_(torch::Tensor& sum, const torch::Tensor& a, const torch::Tensor& b) {
  const torch::NoGradGuard no_grad;
  if (multiplies_widened(a)) {
    sum.addmm_(widened(a).t(), widened(b));
  } else if (sum.scalar_type() == a.scalar_type()) {
    sum.addmm_(a.t(), b);
  } else {
    kernels::accumulate_(sum, a.t().mm(b));
  }
}

}  // namespace regroup
