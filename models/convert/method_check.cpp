#include "models/convert/method_check.h"

#include <torch/types.h>

#include <cmath>

#include "framework/errors/error.h"
#include "framework/tensors/random.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr double kRounding = 1e-5;  // largest relative error of pooled scores and outputs

/// The larger of the relative errors of scores and outputs.
double relative_error(const HeadGroup& group, const ConversionMethod& method,
                      const MethodContext& context) {
  const auto lost = pooling_error(group, method.pool(group, context), context.moments);
  const auto whole = group_energy(group, context.moments);
  const auto share = [](double part, double all) { return all > 0 ? std::sqrt(part / all) : 0; };
  return std::max(share(lost.scores, whole.scores), share(lost.outputs, whole.outputs));
}

void require_exact(const char* what, double error, const ConversionMethod& method, int64_t layer) {
  if (error <= kRounding) return;
  throw Error(c10::str("method ", method.name, ", layer ", layer),
              c10::str(what, " with a relative error of ", error, ", not to rounding"),
              "The method has a defect, or the layer's weights are not finite.");
}

/// A random orthogonal matrix: [n, n] float64.
Tensor orthogonal(int64_t n, at::Generator generator) {
  return std::get<0>(torch::linalg_qr(torch::randn({n, n}, generator, torch::kFloat64)));
}

}  // namespace

HeadGroup turned_copies(const HeadGroup& group, int64_t n, uint64_t seed) {
  auto generator = seeded_generator(seed, "turned copies");
  const auto first = split_rows(group.k[0], group.rotary_dim);
  std::vector<Tensor> keys, values;
  for (int64_t head = 0; head < n; ++head) {
    const auto angles = torch::randn({first.planes.size(0), 1}, generator, torch::kFloat64);
    const auto turn = torch::polar(torch::ones_like(angles), angles);
    keys.push_back(join_rows(
        {turn * first.planes, orthogonal(first.still.size(0), generator).matmul(first.still)}));
    values.push_back(orthogonal(group.v.size(1), generator).matmul(group.v[0]));
  }
  const auto same = [n](const Tensor& heads) {
    return heads.narrow(0, 0, 1).expand({n, -1, -1, -1}).contiguous();
  };
  return {torch::stack(keys), torch::stack(values), same(group.q),    same(group.o),
          group.rotary_dim,   group.k_may_scale,    group.v_may_scale};
}

void check_method(const LayerProjections& layer, const ConversionMethod& method,
                  const MethodContext& context) {
  const auto first = head_group(layer, {0});
  if (!method.draws_anew) {
    require_exact("a group of one head is changed", relative_error(first, method, context), method,
                  context.layer);
  }
  if (method.uses_moments) {
    constexpr int64_t kCopies = 3;
    require_exact("copies that are only turned lose",
                  relative_error(turned_copies(first, kCopies, context.seed), method, context),
                  method, context.layer);
  }
}

}  // namespace regroup
