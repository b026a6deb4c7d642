#include <torch/types.h>

#include "framework/kernels/kernel_table.h"
#include "tests/support/catch_torch.h"
#include "tests/support/close_to.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::close_to;
using testing::seeded_randn;
using torch::Tensor;

struct Angles {
  Tensor cos, sin;
};

/// Angles of 4 positions, as heads of this type need them.
Angles random_angles(int64_t half, torch::ScalarType type = torch::kFloat64) {
  const auto angle = seeded_randn({4, half}, 2);
  const auto wide = type == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  return {angle.cos().to(wide), angle.sin().to(wide)};
}

/// The pairs of dims (i, i + half) as complex numbers, times e^(i angle), in float64.
Tensor turned(const Tensor& heads, const Angles& angles, int direction) {
  const int64_t half = angles.cos.size(1);
  auto result = heads.to(torch::kFloat64, /*non_blocking=*/false, /*copy=*/true);
  const auto pairs = torch::complex(result.narrow(-1, 0, half), result.narrow(-1, half, half));
  const auto turn =
      torch::complex(angles.cos.to(torch::kFloat64), direction * angles.sin.to(torch::kFloat64));
  const auto product = pairs * turn.unsqueeze(1);
  result.narrow(-1, 0, half).copy_(torch::real(product));
  result.narrow(-1, half, half).copy_(torch::imag(product));
  return result;
}

TEST_CASE("rotating turns pairs of dims of some heads in every number format", "[kernels]") {
  const auto rotate = GENERATE(&kernels::rotate_, kernels::formulas::table().rotate_);
  const auto type = GENERATE(torch::kFloat32, torch::kBFloat16, torch::kFloat64);
  const int64_t half = GENERATE(1, 3, 5);
  const int direction = GENERATE(1, -1);
  const auto angles = random_angles(half, type);
  const auto all = seeded_randn({2, 4, 5, 10}).to(type);  // [B, T, heads, head_dim]
  auto expected = all.to(torch::kFloat64);
  if (type == torch::kFloat64) expected = expected.clone();
  expected.narrow(2, 1, 3).copy_(turned(all.narrow(2, 1, 3), angles, direction));
  rotate(all.narrow(2, 1, 3), angles.cos, angles.sin, direction);
  CHECK_THAT(all, close_to(expected.to(type)));
}

TEST_CASE("rotating forth and back gives the same heads", "[kernels]") {
  const auto x = seeded_randn({2, 4, 5, 6}), before = x.clone();
  const auto angles = random_angles(3);
  kernels::rotate_(x, angles.cos, angles.sin, 1);
  CHECK_THAT(x, !AllClose(before, 0.1));
  kernels::rotate_(x, angles.cos, angles.sin, -1);
  CHECK_THAT(x, AllClose(before, 1e-12));
}

TEST_CASE("heads and angles that do not match are refused", "[kernels]") {
  const auto rotate_ = [](const Tensor& heads) {
    const auto [cos, sin] = random_angles(3);
    kernels::rotate_(heads, cos, sin, 1);
  };
  CHECK_THROWS_WITH(rotate_(torch::zeros({2, 5, 1, 6}, torch::kFloat64)),
                    Contains("rotate_: cos") && Contains("[4, 3]") && Contains("[5, 3]"));
  CHECK_THROWS_WITH(rotate_(torch::zeros({2, 4, 1, 5}, torch::kFloat64)), Contains("[2, 4, 1, 5]"));
  CHECK_THROWS_WITH(rotate_(torch::zeros({2, 4, 6, 6}, torch::kFloat64).transpose(2, 3)),
                    Contains("strides"));
  CHECK_THROWS_WITH(rotate_(torch::zeros({2, 4, 1, 6})), Contains("float"));
}

}  // namespace
}  // namespace regroup
