#include "framework/kernels/kernels.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/cpu/skinny_matmul.h"
#include "framework/kernels/kernel_table.h"
#include "framework/kernels/matmul.h"
#include "tests/support/catch_torch.h"
#include "tests/support/close_to.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::close_to;
using testing::seeded_randn;
using torch::Tensor;

const kernels::KernelTable& formulas = kernels::formulas::table();

const torch::ScalarType kTypes[] = {torch::kFloat32, torch::kBFloat16, torch::kFloat64};

TEST_CASE("the rms_norm kernels compute their formulas in every number format", "[kernels]") {
  const auto type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const int64_t d = GENERATE(1, 7, 33, 257);
  const auto x = seeded_randn({5, d}).to(type), weight = seeded_randn({d}, 2).to(type);
  const auto found = kernels::rms_norm(x, weight, 0.01),
             expected = formulas.rms_norm(x, weight, 0.01);
  CHECK_THAT(found.normed, close_to(expected.normed));
  CHECK_THAT(found.inverse_rms, close_to(expected.inverse_rms));

  auto grad = seeded_randn({5, d}, 3).to(type), same_grad = grad.clone();
  const auto gradients = kernels::rms_norm_backward(x, weight, expected.inverse_rms, grad);
  const auto formula = formulas.rms_norm_backward(x, weight, expected.inverse_rms, same_grad);
  CHECK_THAT(gradients.grad_x, close_to(formula.grad_x));
  CHECK_THAT(gradients.grad_weight, close_to(formula.grad_weight));
  CHECK_THAT(grad, close_to(expected.normed));  // overwritten with the normed rows
}

TEST_CASE("the gradient of rms_norm's gain is summed over many rows", "[kernels]") {
  const auto x = seeded_randn({3001, 17}).to(torch::kFloat32),
             weight = seeded_randn({17}, 2).to(torch::kFloat32);
  const auto inverse_rms = kernels::rms_norm(x, weight, 0.01).inverse_rms;
  auto grad = seeded_randn({3001, 17}, 3).to(torch::kFloat32), same_grad = grad.clone();
  CHECK_THAT(
      kernels::rms_norm_backward(x, weight, inverse_rms, grad).grad_weight,
      AllClose(formulas.rms_norm_backward(x, weight, inverse_rms, same_grad).grad_weight, 1e-3));
}

TEST_CASE("the activation kernels compute their formulas in every number format", "[kernels]") {
  using Kind = Activation::Kind;
  const auto type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const auto kind = GENERATE(Kind::kSilu, Kind::kGelu, Kind::kGeluTanh, Kind::kRelu);
  const Activation activation{kind, GENERATE(false, true)};
  const int64_t d = GENERATE(1, 7, 33, 257);
  const auto x = (seeded_randn({5, activation.gated ? 2 * d : d}) * 3).to(type);
  CHECK_THAT(kernels::activation(x, activation), close_to(formulas.activation(x, activation)));

  auto grad = seeded_randn({5, d}, 3).to(type), same_grad = grad.clone();
  CHECK_THAT(kernels::activation_backward(x, activation, grad),
             close_to(formulas.activation_backward(x, activation, same_grad)));
  CHECK_THAT(grad, close_to(formulas.activation(x, activation)));  // overwritten with activation(x)
}

TEST_CASE("GELU and its slope have float32's precision from tail to tail", "[kernels]") {
  const Activation gelu{Activation::Kind::kGelu, /*gated=*/false};
  const auto exact_x = torch::linspace(-8, 8, 40'001, torch::kFloat64).unsqueeze(0);
  const auto x = exact_x.to(torch::kFloat32);
  const auto wide = x.to(torch::kFloat64);
  const auto below = torch::special_erfc(-wide / std::sqrt(2.0)) / 2;
  const auto density = (-wide * wide / 2).exp() / std::sqrt(2 * M_PI);
  CHECK_THAT(kernels::activation(x, gelu).to(torch::kFloat64), AllClose(wide * below, 0, 5e-6));
  CHECK_THAT(kernels::activation(x, gelu).to(torch::kFloat64), AllClose(wide * below, 6e-7, 0));
  auto ones = torch::ones_like(x);
  CHECK_THAT(kernels::activation_backward(x, gelu, ones).to(torch::kFloat64),
             AllClose(below + wide * density, 6e-7, 0));
}

TEST_CASE("activations of huge inputs stay finite, and those of NaN are NaN", "[kernels]") {
  using Kind = Activation::Kind;
  const Activation plain{GENERATE(Kind::kSilu, Kind::kGelu, Kind::kGeluTanh, Kind::kRelu), false};
  const auto x = torch::tensor({{-1e4F, 1e4F, std::numeric_limits<float>::quiet_NaN()}});
  const auto y = kernels::activation(x, plain);
  CHECK_THAT(y.narrow(1, 0, 2), AllClose(torch::tensor({{0.0F, 1e4F}}), 1e-6, 1e-6));
  CHECK(y.isnan()[0][2].item<bool>());
  auto grad = torch::ones_like(x);
  const auto grad_x = kernels::activation_backward(x, plain, grad);
  CHECK_THAT(grad_x.narrow(1, 0, 2), AllClose(torch::tensor({{0.0F, 1.0F}}), 1e-6, 1e-6));
}

TEST_CASE("the cross-entropy kernel computes its formula and the gradient", "[kernels]") {
  const auto type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const int64_t vocab_size = GENERATE(2, 7, 33, 1025);
  const double gradient_scale = GENERATE(0.0, 0.5);
  auto logits = (seeded_randn({5, vocab_size}) * 4).to(type), same = logits.clone();
  const auto targets = torch::tensor(
      {int64_t{0}, int64_t{-100}, vocab_size - 1, int64_t{1}, int64_t{-1}}, torch::kInt64);
  const auto loss = kernels::cross_entropy_(logits, targets, gradient_scale);
  CHECK_THAT(loss, close_to(formulas.cross_entropy_(same, targets, gradient_scale)));
  if (gradient_scale != 0) CHECK_THAT(logits, close_to(same));
}

TEST_CASE("the distillation kernel computes its formula and the gradient", "[kernels]") {
  const auto type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const int64_t vocab_size = GENERATE(2, 33, 1025);
  const double gradient_scale = GENERATE(0.0, 0.5);
  const kernels::Distillation distillation{GENERATE(0.0, 0.3, 1.0), GENERATE(1.0, 2.5)};
  auto logits = (seeded_randn({5, vocab_size}) * 4).to(type), same = logits.clone();
  const auto teacher = (seeded_randn({5, vocab_size}, 2) * 4).to(type);
  const auto targets = torch::tensor(
      {int64_t{0}, int64_t{-100}, vocab_size - 1, int64_t{1}, int64_t{-1}}, torch::kInt64);
  const auto loss = kernels::distillation_(logits, teacher, targets, distillation, gradient_scale);
  CHECK_THAT(
      loss, close_to(formulas.distillation_(same, teacher, targets, distillation, gradient_scale)));
  if (gradient_scale != 0) CHECK_THAT(logits, close_to(same));
}

TEST_CASE("the cross-entropy of logits far apart is finite and exact", "[kernels]") {
  auto logits = torch::tensor({{1e4F, -1e4F}, {1e4F, -1e4F}});
  const auto loss = kernels::cross_entropy_(logits, torch::tensor({0, 1}, torch::kInt64), 1);
  CHECK_THAT(loss, AllClose(torch::tensor({0.0F, 2e4F})));
  CHECK_THAT(logits, AllClose(torch::tensor({{0.0F, 0.0F}, {1.0F, -1.0F}}), 1e-6));
}

TEST_CASE("logits that are not finite give a loss that is not finite", "[kernels]") {
  const float bad = GENERATE(NAN, INFINITY);
  auto logits = torch::tensor({{1.0F, bad, 0.5F}});
  const auto loss = kernels::cross_entropy_(logits, torch::tensor({0}, torch::kInt64), 1);
  CHECK_FALSE(std::isfinite(loss.item<float>()));
}

TEST_CASE("accumulate adds bfloat16 and float32 to float32 sums without rounding to bfloat16",
          "[kernels]") {
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16);
  const auto x = seeded_randn({1037}).to(type), sum = seeded_randn({1037}, 2).to(torch::kFloat32);
  const auto expected = sum + x.to(torch::kFloat32);
  kernels::accumulate_(sum, x);
  CHECK_THAT(sum, AllClose(expected));
}

TEST_CASE("the sum of squares is exact to float64 and does not depend on the threads",
          "[kernels]") {
  const int64_t n = GENERATE(1, 1037, 300'001);
  const auto x = seeded_randn({n}).to(torch::kFloat32);
  const double sum = kernels::sum_of_squares(x);
  CHECK(sum == Approx(x.to(torch::kFloat64).square().sum().item<double>()).epsilon(1e-12));
  const int n_threads_before = at::get_num_threads();
  for (const int n_threads : {1, 2, 3}) {
    at::set_num_threads(n_threads);
    CHECK(kernels::sum_of_squares(x) == sum);
  }
  at::set_num_threads(n_threads_before);
}

TEST_CASE("the sum of squares of numbers whose squares overflow float32 is finite", "[kernels]") {
  CHECK(kernels::sum_of_squares(torch::full({2}, 1e30)) == Approx(2e60).epsilon(1e-6));
}

TEST_CASE("the AdamW kernel computes its formula and keeps a rounded copy", "[kernels]") {
  const int64_t n = 1037;
  const auto wide = [&](uint64_t seed) { return seeded_randn({n}, seed).to(torch::kFloat32); };
  const auto gradient = wide(1), p = wide(2), m = wide(3), v = wide(4).square();
  const auto formula_p = p.clone(), formula_m = m.clone(), formula_v = v.clone();
  const auto copy = torch::zeros({n}, torch::kBFloat16);
  const kernels::AdamWStep step{0.1, 0.8, 0.9, 1e-3, 0.2, 0.5, 3};
  kernels::adamw_(p, gradient, m, v, copy, step);
  formulas.adamw_(formula_p, gradient, formula_m, formula_v, {}, step);
  CHECK_THAT(p, close_to(formula_p));
  CHECK_THAT(m, close_to(formula_m));
  CHECK_THAT(v, close_to(formula_v));
  CHECK_THAT(copy, AllClose(p.to(torch::kBFloat16)));
}

TEST_CASE("skinny_matmul multiplies like mm for every shape", "[kernels]") {
  const int64_t m = GENERATE(1, 2, 3, 4, 5, 16), n = GENERATE(1, 2, 3, 10),
                k = GENERATE(1, 8, 13, 67);
  const auto x = seeded_randn({m, k}).to(torch::kFloat32),
             weight = seeded_randn({n, k}, 2).to(torch::kFloat32);
  CHECK_THAT(kernels::cpu::skinny_matmul(x, weight), AllClose(x.mm(weight.t()), 1e-4));
  const auto half_x = x.to(torch::kBFloat16), half_weight = weight.to(torch::kBFloat16);
  const auto expected =
      half_x.to(torch::kFloat32).mm(half_weight.to(torch::kFloat32).t()).to(torch::kBFloat16);
  CHECK_THAT(kernels::cpu::skinny_matmul(half_x, half_weight), AllClose(expected, 1e-4, 1.0 / 128));
}

TEST_CASE("skinny_matmul serves few rows of contiguous float32 and bfloat16 only", "[kernels]") {
  const auto weight = torch::ones({3, 4});
  CHECK(kernels::cpu::skinny_matmul_serves(torch::ones({16, 4}), weight));
  CHECK_FALSE(kernels::cpu::skinny_matmul_serves(torch::ones({17, 4}), weight));
  CHECK_FALSE(kernels::cpu::skinny_matmul_serves(torch::ones({2, 3}), weight.t()));
  CHECK_FALSE(kernels::cpu::skinny_matmul_serves(torch::ones({2, 4}, torch::kFloat64),
                                                 weight.to(torch::kFloat64)));
}

TEST_CASE("matrix products agree with a product in float64 in every number format", "[kernels]") {
  const auto type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const int64_t rows = GENERATE(3, 19);
  const auto rounded = [&](const std::vector<int64_t>& shape, uint64_t seed) {
    return seeded_randn(shape, seed).to(type).to(torch::kFloat64);
  };
  const auto a = rounded({rows, 5}, 1), b = rounded({7, 5}, 2), c = rounded({rows, 7}, 3);
  CHECK_THAT(matmul_nt(a.to(type), b.to(type)), close_to(a.mm(b.t()).to(type)));
  CHECK_THAT(matmul_nn(c.to(type), b.to(type)), close_to(c.mm(b).to(type)));
  CHECK_THAT(matmul_tn(a.to(type), c.to(type)), close_to(a.t().mm(c).to(type)));
  auto sum = torch::ones({5, 7}, type == torch::kFloat64 ? type : torch::kFloat32);
  add_matmul_tn_(sum, a.to(type), c.to(type));
  CHECK(((sum - 1).to(torch::kFloat64) - a.t().mm(c)).abs().max().item<double>() <
        (type == torch::kBFloat16 ? 0.1 : 1e-4));
}

TEST_CASE("the CPU has loops for its kernels and other devices have formulas", "[kernels]") {
  CHECK(&kernels::kernels_of(torch::kCPU) == &kernels::cpu::table());
  CHECK(&kernels::kernels_of(torch::kCUDA) == &formulas);
  CHECK(&kernels::kernels_of(torch::kMeta) == &formulas);
}

TEST_CASE("a kernel runs on the device of its operands", "[kernels]") {
  const auto gate_up = torch::empty({5, 6}, torch::kMeta);
  CHECK(kernels::activation(gate_up, {}).is_meta());
  CHECK_THROWS_WITH(kernels::rms_norm(gate_up, torch::ones({6}), 0.01),
                    Contains("rms_norm: weight") && Contains("on meta"));
  CHECK_THROWS_WITH(kernels::accumulate_(torch::zeros({5, 6}), gate_up),
                    Contains("accumulate_") && Contains("meta"));
}

TEST_CASE("kernels refuse operands of another shape or dtype or layout", "[kernels]") {
  const auto x = seeded_randn({5, 6}), weight = seeded_randn({6}, 2);
  auto grad = seeded_randn({5, 6}, 3), short_grad = seeded_randn({4, 6}, 3);
  const auto inverse_rms = kernels::rms_norm(x, weight, 0.01).inverse_rms;
  CHECK_THROWS_WITH(kernels::rms_norm(x, weight.narrow(0, 0, 5), 0.01),
                    Contains("rms_norm: weight") && Contains("[5]") && Contains("[6]"));
  CHECK_THROWS_WITH(kernels::rms_norm(x, weight.to(torch::kFloat32), 0.01), Contains("double"));
  CHECK_THROWS_WITH(kernels::rms_norm(x.t(), weight.narrow(0, 0, 5), 0.01), Contains("contiguous"));
  CHECK_THROWS_WITH(kernels::rms_norm(x.view({5, 2, 3}), weight, 0.01), Contains("[5, 2, 3]"));
  CHECK_THROWS_WITH(kernels::rms_norm_backward(x, weight, inverse_rms, short_grad),
                    Contains("grad_normed"));
  CHECK_THROWS_WITH(kernels::rms_norm_backward(x, weight, inverse_rms.narrow(0, 0, 4), grad),
                    Contains("inverse_rms"));
  CHECK_THROWS_WITH(kernels::activation(x.narrow(1, 0, 5).contiguous(), {}), Contains("[5, 5]"));
  CHECK_THROWS_WITH(kernels::activation_backward(x, {}, grad),
                    Contains("activation_backward: grad"));

  auto logits = x.clone();
  const auto targets = torch::zeros({5}, torch::kInt64);
  CHECK_THROWS_WITH(kernels::cross_entropy_(logits, targets.narrow(0, 0, 4), 1),
                    Contains("cross_entropy_: targets"));
  CHECK_THROWS_WITH(kernels::cross_entropy_(logits, targets.to(torch::kInt32), 1),
                    Contains("targets"));
  CHECK_THROWS_WITH(kernels::cross_entropy_(logits, targets + 6, 1),
                    Contains("target 6 in a vocabulary of 6"));

  const auto flat = torch::zeros({7}), short_flat = torch::zeros({6});
  CHECK_THROWS_WITH(kernels::accumulate_(flat, short_flat), Contains("[6]") && Contains("[7]"));
  CHECK_THROWS_WITH(kernels::sum_of_squares(x), Contains("sum_of_squares"));
  const kernels::AdamWStep step{0.1, 0.8, 0.9, 1e-3, 0.2, 0.5, 3};
  CHECK_THROWS_WITH(kernels::adamw_(flat, short_flat, flat, flat, {}, step),
                    Contains("adamw_: gradient"));
  CHECK_THROWS_WITH(kernels::adamw_(flat, flat, flat, flat, flat, step), Contains("adamw_: copy"));
}

TEST_CASE("matrix products refuse operands that do not match", "[kernels]") {
  const auto a = torch::ones({2, 4}), b = torch::ones({3, 4});
  CHECK_THROWS_WITH(matmul_nt(a, torch::ones({3, 5})), Contains("[3, 5]") && Contains("[3, 4]"));
  CHECK_THROWS_WITH(matmul_nt(a, b, torch::ones({1, 3})), Contains("[1, 3]") && Contains("[2, 3]"));
  CHECK_THROWS_WITH(matmul_nt(a, b.to(torch::kBFloat16)), Contains("skinny_matmul: weight"));
}

TEST_CASE("matrix products build no graph", "[kernels]") {
  const int64_t rows = GENERATE(2, 20);
  const auto a = torch::ones({rows, 4}).requires_grad_();
  CHECK_FALSE(matmul_nt(a, torch::ones({3, 4})).requires_grad());
}

}  // namespace
}  // namespace regroup
