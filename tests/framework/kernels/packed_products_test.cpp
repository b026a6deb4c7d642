#include "framework/kernels/cpu/packed_products.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <limits>

#include "framework/kernels/cpu/tall_matmul.h"
#include "framework/kernels/matmul.h"
#include "tests/support/catch_torch.h"
#include "tests/support/close_to.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using namespace kernels::cpu;
using testing::close_to;
using testing::seeded_randn;
using torch::Tensor;

template <typename T>
torch::ScalarType type_of() {
  return c10::CppTypeToScalarType<T>::value;
}

/// An operand with zeros behind x in both axes.
template <typename C>
Tensor filled(const Tensor& x, int64_t rows, int64_t columns) {
  auto result = torch::zeros({rows, columns}, type_of<C>());
  result.narrow(0, 0, x.size(0)).narrow(1, 0, x.size(1)).copy_(x);
  return result;
}

/// Rows [k, n] as a right operand by its definition.
template <typename C>
Tensor right_operand(const Tensor& x) {
  const auto rows = filled<C>(x, padded(x.size(0)), padded(x.size(1)));
  if (!kInterleaves<C>) return rows;
  return rows.view({rows.size(0) / 2, 2, rows.size(1)}).transpose(1, 2).reshape(rows.sizes());
}

TEMPLATE_TEST_CASE("operands are packed with zeros behind them", "[kernels]",
                   (std::pair<float, float>), (std::pair<float, c10::BFloat16>),
                   (std::pair<c10::BFloat16, float>), (std::pair<c10::BFloat16, c10::BFloat16>)) {
  using T = typename TestType::first_type;
  using C = typename TestType::second_type;
  const int64_t rows = GENERATE(1, 15, 16, 31, 64, 70), columns = GENERATE(1, 2, 16, 33, 80);
  const int64_t stride = columns + 5;
  const Tensor memory = seeded_randn({rows, stride}).to(type_of<T>());
  const Tensor x = memory.narrow(1, 0, columns);
  const auto* in = memory.const_data_ptr<T>();
  // What was there before is overwritten.
  Tensor out = torch::full({padded(rows), padded(columns)}, NAN, type_of<C>());

  left(in, stride, rows, columns, out.mutable_data_ptr<C>());
  CHECK_THAT(out.narrow(0, 0, rows), AllClose(filled<C>(x, rows, padded(columns))));

  right(in, stride, rows, columns, out.mutable_data_ptr<C>());
  CHECK_THAT(out, AllClose(right_operand<C>(x)));

  Tensor turned = torch::full({padded(columns), padded(rows)}, NAN, type_of<C>());
  right_of_columns(in, stride, rows, columns, turned.mutable_data_ptr<C>());
  CHECK_THAT(turned, AllClose(right_operand<C>(x.t())));

  const int64_t out_stride = padded(rows) + 3;
  Tensor wide = torch::full({columns, out_stride}, 7, type_of<C>());
  left_of_columns(in, stride, rows, columns, wide.mutable_data_ptr<C>(), out_stride);
  CHECK_THAT(wide.narrow(1, 0, padded(rows)), AllClose(filled<C>(x.t(), columns, padded(rows))));
  CHECK((wide.narrow(1, padded(rows), 3) == 7).all().item<bool>());
}

TEST_CASE("what is packed as bfloat16 is rounded to nearest even, and NaN stays NaN", "[kernels]") {
  const auto x = torch::tensor(
      {{1.00390625F, 1.01171875F, 3.4e38F, 1e-40F, std::numeric_limits<float>::infinity(), -0.0F}});
  auto out = torch::empty({16, 16}, torch::kBFloat16);
  right_of_columns(x.const_data_ptr<float>(), 6, 1, 6, out.mutable_data_ptr<c10::BFloat16>());
  const auto packed = out.view({8, 16, 2}).select(1, 0).reshape(-1).narrow(0, 0, 6);
  CHECK(packed.equal(x[0].to(torch::kBFloat16)));

  const auto nan = torch::full({2, 16}, std::numeric_limits<float>::quiet_NaN());
  right(nan.const_data_ptr<float>(), 16, 2, 16, out.mutable_data_ptr<c10::BFloat16>());
  CHECK(out.narrow(0, 0, 2).isnan().all().item<bool>());
}

TEST_CASE("tall_matmul multiplies like a product in float32 for every shape", "[kernels]") {
  if (!has_products<c10::BFloat16>()) return;  // nothing calls it on this processor
  const int64_t k = GENERATE(1, 65, 512, 1100), m = GENERATE(1, 100, 300), n = GENERATE(1, 96, 700);
  const auto a = seeded_randn({k, m + 3}).to(torch::kBFloat16).narrow(1, 0, m),
             b = seeded_randn({k, n + 1}, 2).to(torch::kBFloat16).narrow(1, 1, n);
  const auto expected = a.to(torch::kFloat32).t().mm(b.to(torch::kFloat32));
  auto result = torch::full({m, n}, NAN, torch::kBFloat16);
  tall_matmul(a, b, result);
  CHECK_THAT(result, AllClose(expected.to(torch::kBFloat16), 1e-3, 1.0 / 128));
  auto sum = torch::ones({m, n});
  add_tall_matmul_(a, b, sum);
  CHECK_THAT(sum, AllClose(expected + 1, 1e-3, 1e-5));
}

TEST_CASE("tall_matmul does not depend on the number of threads", "[kernels]") {
  if (!has_products<c10::BFloat16>()) return;
  const auto a = seeded_randn({1000, 500}).to(torch::kBFloat16),
             b = seeded_randn({1000, 600}, 2).to(torch::kBFloat16);
  auto result = torch::empty({500, 600}, torch::kBFloat16), again = torch::empty_like(result);
  tall_matmul(a, b, result);
  const int n_threads_before = at::get_num_threads();
  at::set_num_threads(1);
  tall_matmul(a, b, again);
  at::set_num_threads(n_threads_before);
  CHECK(result.equal(again));
}

TEST_CASE("tall_matmul refuses a result of another shape", "[kernels]") {
  const auto a = torch::ones({70, 65}, torch::kBFloat16),
             b = torch::ones({70, 66}, torch::kBFloat16);
  auto result = torch::empty({66, 65}, torch::kBFloat16), sum = torch::empty({65, 65});
  CHECK_THROWS_WITH(tall_matmul(a, b, result), Contains("[66, 65]") && Contains("[65, 66]"));
  CHECK_THROWS_WITH(add_tall_matmul_(a, b, sum), Contains("[65, 65]"));
  CHECK_THROWS_WITH(add_matmul_tn_(sum, a, b), Contains("65"));
}

}  // namespace
}  // namespace regroup
