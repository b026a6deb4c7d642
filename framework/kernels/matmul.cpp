#include "framework/kernels/matmul.h"

#include <ATen/Parallel.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <array>

#include "framework/kernels/cpu/skinny_matmul.h"
#include "framework/kernels/cpu/tall_matmul.h"
#include "framework/kernels/kernels.h"
#include "framework/kernels/operands.h"

namespace regroup {

using kernels::widened;

namespace {

/// oneDNN divides a product of many columns, or one with a long sum, badly among threads: on two
/// cores with AMX it takes 1.5 and 1.9 times as long as when each thread multiplies rows of its
/// own.
bool is_divided_by_rows(const torch::Tensor& a, const torch::Tensor& b) {
  constexpr int64_t kRowsPerThread = 256, kWide = 2048, kLong = 4096;
  return a.is_cpu() && a.scalar_type() == torch::kBFloat16 && cpu_multiplies_bfloat16_tiles() &&
         a.size(0) >= kRowsPerThread * at::get_num_threads() &&
         (b.size(1) >= kWide || a.size(1) >= kLong);
}

/// a b (+ residual), residual undefined or as the result.
torch::Tensor product(const torch::Tensor& a, const torch::Tensor& b,
                      const torch::Tensor& residual) {
  const auto multiply = [&](torch::Tensor& out, int64_t first, int64_t n_rows) {
    const torch::NoGradGuard no_grad;  // of this thread
    const auto rows = a.narrow(0, first, n_rows);
    if (!residual.defined()) return torch::mm_out(out, rows, b);
    return torch::addmm_out(out, residual.narrow(0, first, n_rows), rows, b);
  };
  auto out = torch::empty({a.size(0), b.size(1)}, a.options());
  if (!is_divided_by_rows(a, b)) return multiply(out, 0, a.size(0));
  const int64_t per_thread = (a.size(0) + at::get_num_threads() - 1) / at::get_num_threads();
  at::parallel_for(0, a.size(0), per_thread, [&](int64_t begin, int64_t end) {
    auto part = out.narrow(0, begin, end - begin);
    multiply(part, begin, end - begin);
  });
  return out;
}

}  // namespace

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
  return product(a, b.t(), residual);
}

torch::Tensor matmul_nn(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::NoGradGuard no_grad;
  if (multiplies_widened(a)) return widened(a).mm(widened(b)).to(a.scalar_type());
  return product(a, b, {});
}

torch::Tensor matmul_tn(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::NoGradGuard no_grad;
  if (kernels::cpu::tall_matmul_serves(a, b)) {
    auto product = torch::empty({a.size(1), b.size(1)}, a.options());
    kernels::cpu::tall_matmul(a, b, product);
    return product;
  }
  if (multiplies_widened(a)) return widened(a).t().mm(widened(b)).to(a.scalar_type());
  return a.t().mm(b);
}

void add_matmul_tn_(torch::Tensor& sum, const torch::Tensor& a, const torch::Tensor& b) {
  const torch::NoGradGuard no_grad;
  if (sum.scalar_type() == torch::kFloat32 && sum.is_contiguous() &&
      kernels::cpu::tall_matmul_serves(a, b)) {
    kernels::cpu::add_tall_matmul_(a, b, sum);
  } else if (multiplies_widened(a)) {
    sum.addmm_(widened(a).t(), widened(b));
  } else if (sum.scalar_type() == a.scalar_type()) {
    sum.addmm_(a.t(), b);
  } else {
    kernels::accumulate_(sum, a.t().mm(b));
  }
}

}  // namespace regroup
