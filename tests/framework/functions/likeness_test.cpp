#include "framework/functions/likeness.h"

#include <torch/types.h>

#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::seeded_randn;

TEST_CASE("likeness equals its definition for any division of the rows", "[likeness]") {
  const auto hidden = seeded_randn({50, 6}, 1).to(torch::kFloat32),
             reference_hidden = seeded_randn({50, 9}, 2).to(torch::kFloat32),
             head = seeded_randn({11, 6}, 3).to(torch::kFloat32),
             reference_head = seeded_randn({11, 9}, 4).to(torch::kFloat32);
  const auto targets = torch::arange(50) % 11;
  LikenessMeter meter;
  for (const auto& [first, count] : {std::pair{0, 20}, std::pair{20, 30}}) {
    meter.add({hidden.narrow(0, first, count), {head}},
              {reference_hidden.narrow(0, first, count), {reference_head}},
              targets.narrow(0, first, count));
  }
  const auto q = torch::softmax(hidden.matmul(head.t()).to(torch::kFloat64), -1);
  const auto p =
      torch::softmax(reference_hidden.matmul(reference_head.t()).to(torch::kFloat64), -1);
  const auto loss = [&](const torch::Tensor& x) {
    return -x.gather(1, targets.unsqueeze(1)).log().mean().item<double>();
  };
  const auto mean = meter.mean();
  CHECK(meter.n_tokens() == 50);
  CHECK(mean.loss == Approx(loss(q)));
  CHECK(mean.reference_loss == Approx(loss(p)));
  CHECK(mean.kl == Approx((p * (p / q).log()).sum(-1).mean().item<double>()));
  CHECK(mean.agreement ==
        Approx(p.argmax(-1).eq(q.argmax(-1)).to(torch::kFloat64).mean().item<double>()));
}

TEST_CASE("likeness of no tokens is zero", "[likeness]") {
  CHECK(LikenessMeter().mean().loss == 0);
}

}  // namespace
}  // namespace regroup
