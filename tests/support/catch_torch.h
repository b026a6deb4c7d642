// tests/support/catch_torch.h: Catch2 (2.13 or 3.x) together with LibTorch. Tests include this
// header instead of Catch2, because LibTorch's logging header also defines CHECK, as a macro that
// ends the process.
#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "c10/util/Logging.h"

#undef CHECK
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#define REGROUP_CATCH_MATCHER_BASE Catch::Matchers::MatcherBase
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
inline auto Contains(const std::string& text) { return ContainsSubstring(text); }
#else
#include <catch2/catch.hpp>
#define REGROUP_CATCH_MATCHER_BASE Catch::MatcherBase
using Catch::Matchers::Contains;
#endif

namespace regroup::testing {

/// One line for a tensor: dtype, shape and its first values.
inline std::string brief(const torch::Tensor& tensor) {
  if (!tensor.defined()) return "undefined tensor";
  constexpr int64_t kValuesShown = 6;
  std::string text = c10::str(tensor.scalar_type(), " ", tensor.sizes(), " {");
  const auto flat = tensor.detach().cpu().reshape(-1);
  for (int64_t i = 0; i < std::min(flat.numel(), kValuesShown); ++i) {
    text += c10::str(i == 0 ? "" : ", ", flat[i].to(torch::kDouble).item<double>());
  }
  return text + (flat.numel() > kValuesShown ? ", ...}" : "}");
}

/// Matches a tensor of the same shape and dtype whose elements all satisfy
/// |actual - expected| <= atol + rtol * |expected|; NaN never matches. A mismatch reports the
/// largest difference and its position.
class AllClose : public REGROUP_CATCH_MATCHER_BASE<torch::Tensor> {
 public:
  explicit AllClose(torch::Tensor expected, double atol = 0, double rtol = 0)
      : expected_(std::move(expected)), atol_(atol), rtol_(rtol) {}

  bool match(const torch::Tensor& actual) const override {
    if (actual.sizes() != expected_.sizes() || actual.scalar_type() != expected_.scalar_type()) {
      finding_ = "another shape or dtype";
      return false;
    }
    if (actual.numel() == 0) return true;
    const auto expected = expected_.detach().cpu().to(torch::kDouble).reshape(-1);
    const auto found = actual.detach().cpu().to(torch::kDouble).reshape(-1);
    const auto excess = ((found - expected).abs() - rtol_ * expected.abs()).nan_to_num(INFINITY);
    const int64_t worst = excess.argmax().item<int64_t>();
    finding_ = c10::str("largest difference ", (found - expected)[worst].item<double>(), " at ",
                        position(worst), ": ", found[worst].item<double>(), " for ",
                        expected[worst].item<double>());
    return excess[worst].item<double>() <= atol_;
  }

  std::string describe() const override {
    return c10::str("is close to ", brief(expected_), " (atol ", atol_, ", rtol ", rtol_, "); ",
                    finding_);
  }

 private:
  std::vector<int64_t> position(int64_t flat_index) const {
    std::vector<int64_t> index(expected_.dim());
    for (int64_t axis = expected_.dim() - 1; axis >= 0; --axis) {
      index[axis] = flat_index % expected_.size(axis);
      flat_index /= expected_.size(axis);
    }
    return index;
  }

  torch::Tensor expected_;
  double atol_;
  double rtol_;
  mutable std::string finding_;  // describe() is called after match()
};

}  // namespace regroup::testing

namespace Catch {
template <>
struct StringMaker<torch::Tensor> {
  static std::string convert(const torch::Tensor& tensor) {
    return regroup::testing::brief(tensor);
  }
};
}  // namespace Catch

using regroup::testing::AllClose;
