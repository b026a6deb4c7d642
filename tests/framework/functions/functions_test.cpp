#include <torch/nn/functional/loss.h>
#include <torch/types.h>

#include <cmath>

#include "framework/functions/checkpoint.h"
#include "framework/functions/cross_entropy.h"
#include "framework/functions/embedding.h"
#include "framework/functions/linear.h"
#include "framework/kernels/kernels.h"
#include "tests/support/catch_torch.h"
#include "tests/support/numerical_gradient.h"

namespace regroup {
namespace {

using testing::check_gradients;
using testing::numerical_gradient;
using testing::seeded_randn;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

Tensor plain_rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

Norm rms(const Tensor& gain, double eps) { return {Norm::Kind::kRms, eps, gain}; }

Tensor plain_swiglu(const Tensor& gate_up) {
  const auto parts = gate_up.chunk(2, -1);
  return torch::silu(parts[0]) * parts[1];
}

TEST_CASE("linear is a matrix product with the gradients of one", "[functions]") {
  const auto x = seeded_randn({5, 7}), weight = seeded_randn({3, 7}, 2);
  CHECK_THAT(regroup::linear(x, {weight}), AllClose(x.matmul(weight.t()), 1e-12));
  check_gradients([](const Tensors& in) { return regroup::linear(in[0], {in[1]}); }, {x, weight});
}

TEST_CASE("linear computes its weight's gradient where the input is data", "[functions]") {
  const auto x = seeded_randn({5, 7}), weight = seeded_randn({3, 7}, 2);
  check_gradients([&](const Tensors& in) { return regroup::linear(x, {in[0]}); }, {weight});
}

TEST_CASE("linear adds a residual and passes its gradient on", "[functions]") {
  const auto x = seeded_randn({5, 7}), weight = seeded_randn({3, 7}, 2),
             residual = seeded_randn({5, 3}, 3);
  CHECK_THAT(regroup::linear(x, {weight}, residual),
             AllClose(x.matmul(weight.t()) + residual, 1e-12));
  check_gradients([](const Tensors& in) { return regroup::linear(in[0], {in[1]}, in[2]); },
                  {x, weight, residual});
}

TEST_CASE("a residual that is the input of the block gets both gradients", "[functions]") {
  const auto x = seeded_randn({5, 4}), weight = seeded_randn({4, 4}, 2);
  check_gradients([](const Tensors& in) { return regroup::linear(in[0], {in[1]}, in[0]); },
                  {x, weight});
}

TEST_CASE("norm_linear is both functions in turn with their gradients", "[functions]") {
  const auto x = seeded_randn({5, 7}), gain = seeded_randn({7}, 2),
             weight = seeded_randn({3, 7}, 3);
  const double eps = 0.1;  // large enough that its absence would change the result
  CHECK_THAT(norm_linear(x, rms(gain, eps), {weight}),
             AllClose(plain_rms_norm(x, gain, eps).matmul(weight.t()), 1e-12));
  check_gradients([&](const Tensors& in) { return norm_linear(in[0], rms(in[1], eps), {in[2]}); },
                  {x, gain, weight});
}

TEST_CASE("activation_linear is both functions in turn with their gradients", "[functions]") {
  const auto gate_up = seeded_randn({5, 14}), weight = seeded_randn({3, 7}, 2),
             residual = seeded_randn({5, 3}, 3);
  CHECK_THAT(activation_linear(gate_up, {}, {weight}),
             AllClose(plain_swiglu(gate_up).matmul(weight.t()), 1e-12));
  check_gradients([](const Tensors& in) { return activation_linear(in[0], {}, {in[1]}); },
                  {gate_up, weight});
  check_gradients([](const Tensors& in) { return activation_linear(in[0], {}, {in[1]}, in[2]); },
                  {gate_up, weight, residual});
}

TEST_CASE("rms_norm has the value and the gradients of its formula", "[functions]") {
  const auto x = seeded_randn({5, 7}), gain = seeded_randn({7}, 2);
  CHECK_THAT(normed(x, rms(gain, 0.1)), AllClose(plain_rms_norm(x, gain, 0.1), 1e-12));
  check_gradients([](const Tensors& in) { return normed(in[0], rms(in[1], 0.1)); }, {x, gain});
}

TEST_CASE("linear adds its bias once, with a residual or without", "[functions]") {
  const auto x = seeded_randn({5, 7}), weight = seeded_randn({3, 7}, 2),
             bias = seeded_randn({3}, 3), residual = seeded_randn({5, 3}, 4);
  const auto product = x.matmul(weight.t()) + bias;
  CHECK_THAT(regroup::linear(x, {weight, bias}), AllClose(product, 1e-12));
  CHECK_THAT(regroup::linear(x, {weight, bias}, residual), AllClose(product + residual, 1e-12));
  check_gradients(
      [](const Tensors& in) {
        return regroup::linear(in[0], {in[1], in[2]});
      },
      {x, weight, bias});
  check_gradients(
      [](const Tensors& in) {
        return regroup::linear(in[0], {in[1], in[2]}, in[3]);
      },
      {x, weight, bias, residual});
}

TEST_CASE("a layer norm before a linear map and without one has the gradients of its formula",
          "[functions]") {
  const auto x = seeded_randn({5, 7}), gain = seeded_randn({7}, 2), shift = seeded_randn({7}, 3),
             weight = seeded_randn({3, 7}, 4);
  const auto norm = [](const Tensor& own_gain, const Tensor& own_shift) {
    return Norm{Norm::Kind::kLayer, 0.1, own_gain, own_shift};
  };
  const auto centred = x - x.mean(-1, true);
  const auto unit = centred / (centred.square().mean(-1, true) + 0.1).sqrt();
  CHECK_THAT(normed(x, norm(gain, shift)), AllClose(unit * gain + shift, 1e-12));
  CHECK_THAT(normed(x, norm(gain, {})), AllClose(unit * gain, 1e-12));
  CHECK_THAT(normed(x, norm({}, {})), AllClose(unit, 1e-12));
  check_gradients([&](const Tensors& in) { return normed(in[0], norm(in[1], in[2])); },
                  {x, gain, shift});
  check_gradients([&](const Tensors& in) { return normed(in[0], norm({}, {})); }, {x});
  check_gradients(
      [&](const Tensors& in) { return norm_linear(in[0], norm(in[1], in[2]), {in[3]}); },
      {x, gain, shift, weight});
}

TEST_CASE("every activation, gated and plain, has the value and the gradients of its formula",
          "[functions]") {
  using Kind = Activation::Kind;
  const auto kind = GENERATE(Kind::kSilu, Kind::kGelu, Kind::kGeluTanh, Kind::kRelu);
  const bool gated = GENERATE(false, true);
  const auto act = [&](const Tensor& x) {
    const auto inner = std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3));
    switch (kind) {
      case Kind::kSilu:
        return x / (1 + (-x).exp());
      case Kind::kGelu:
        return x * (1 + torch::erf(x / std::sqrt(2.0))) / 2;
      case Kind::kGeluTanh:
        return x * (1 + inner.tanh()) / 2;
      case Kind::kRelu:
        return x.clamp_min(0);
    }
    return x;
  };
  const auto x = seeded_randn({5, gated ? 14 : 7}), weight = seeded_randn({3, 7}, 2),
             bias = seeded_randn({3}, 3);
  const auto hidden = gated ? act(x.narrow(1, 0, 7)) * x.narrow(1, 7, 7) : act(x);
  const Activation activation{kind, gated};
  CHECK_THAT(activation_linear(x, activation, {weight, bias}),
             AllClose(hidden.matmul(weight.t()) + bias, 1e-12));
  check_gradients(
      [&](const Tensors& in) {
        return activation_linear(in[0], activation, {in[1], in[2]});
      },
      {x, weight, bias});
}

TEST_CASE("a function does not change the gradient that it receives", "[functions]") {
  const auto x = seeded_randn({5, 7}).requires_grad_(),
             gain = seeded_randn({7}, 2).requires_grad_();
  const auto weight = seeded_randn({7, 7}, 3).requires_grad_();
  const auto grad = seeded_randn({5, 7}, 4), before = grad.clone();
  normed(x, rms(gain, 0.1)).backward(grad);
  norm_linear(x, rms(gain, 0.1), {weight}).backward(grad);
  regroup::linear(x, {weight}, x).backward(grad);
  CHECK_THAT(grad, AllClose(before));
}

TEST_CASE("embedding gives rows and sums the gradients of tokens that occur again", "[functions]") {
  const auto table = seeded_randn({6, 3});
  const auto tokens = torch::tensor({{1, 4, 1}, {5, 1, 0}}, torch::kInt64);
  CHECK_THAT(regroup::embedding(table, tokens), AllClose(table.index({tokens})));
  check_gradients([&](const Tensors& in) { return regroup::embedding(in[0], tokens); }, {table});
}

TEST_CASE("the gradient of a bfloat16 embedding is summed in float32", "[functions]") {
  const auto table = torch::zeros({2, 1}, torch::kBFloat16).requires_grad_();
  const auto tokens = torch::zeros({1000}, torch::kInt64);
  regroup::embedding(table, tokens).sum().backward();
  CHECK(table.grad()[0].item<double>() == 1000);  // bfloat16 sums stay at 256
}

TEST_CASE("linear_cross_entropy is the scaled sum over targets that are not negative",
          "[functions]") {
  const auto hidden = seeded_randn({6, 5}), weight = seeded_randn({9, 5}, 2);
  const auto targets = torch::tensor({3, -100, 8, 0, -1, 3}, torch::kInt64);
  const auto kept = torch::tensor({0, 2, 3, 5}, torch::kInt64);
  const auto log_probability = hidden.matmul(weight.t()).log_softmax(-1).index({kept});
  const auto expected = -0.25 * log_probability.gather(1, targets.index({kept}).unsqueeze(1)).sum();
  CHECK_THAT(linear_cross_entropy({hidden, {weight}}, targets, 0.25), AllClose(expected, 1e-12));
  check_gradients(
      [&](const Tensors& in) {
        return linear_cross_entropy({in[0], {in[1]}}, targets, 0.25);
      },
      {hidden, weight});
}

TEST_CASE("linear_cross_entropy over several chunks of rows equals one softmax over all",
          "[functions]") {
  const int64_t vocab_size = 20'000, n_rows = 1'100;
  int64_t n_chunks = 0, n_visited = 0;
  for_each_logit_chunk(n_rows, vocab_size, [&](int64_t first, int64_t rows) {
    CHECK(first == n_visited);
    n_visited += rows;
    ++n_chunks;
  });
  CHECK(n_chunks > 2);
  CHECK(n_visited == n_rows);

  const auto hidden = seeded_randn({n_rows, 2}).requires_grad_(),
             weight = seeded_randn({vocab_size, 2}, 2).requires_grad_();
  auto targets = torch::arange(n_rows, torch::kInt64) * 17;
  targets[7] = -1;
  const auto loss = linear_cross_entropy({hidden, {weight}}, targets, 0.5);
  loss.backward();
  const auto plain_hidden = hidden.detach().clone().requires_grad_(),
             plain_weight = weight.detach().clone().requires_grad_();
  const auto options =
      torch::nn::functional::CrossEntropyFuncOptions().ignore_index(-1).reduction(torch::kSum);
  const auto expected = 0.5 * torch::nn::functional::cross_entropy(
                                  plain_hidden.matmul(plain_weight.t()), targets, options);
  expected.backward();
  CHECK_THAT(loss.detach(), AllClose(expected.detach(), 1e-9));
  CHECK_THAT(hidden.grad(), AllClose(plain_hidden.grad(), 1e-10));
  CHECK_THAT(weight.grad(), AllClose(plain_weight.grad(), 1e-10));
}

TEST_CASE("linear_cross_entropy knows a head's bias and soft cap, and their gradients",
          "[functions]") {
  const auto hidden = seeded_randn({6, 3}), weight = seeded_randn({9, 3}, 2),
             bias = seeded_randn({9}, 3);
  const auto targets = torch::tensor({1, -1, 8, 0, 3, 2}, torch::kInt64);
  const double cap = 0.8;
  const auto predictions = [&](const Tensor& h, const Tensor& w, const Tensor& b) {
    return Predictions{h, {w, b, cap}};
  };
  const auto logits = cap * ((hidden.matmul(weight.t()) + bias) / cap).tanh();
  CHECK_THAT(predictions(hidden, weight, bias).logits(2, 3),
             AllClose(logits.narrow(0, 2, 3), 1e-12));
  const auto expected = torch::nn::functional::cross_entropy(
      logits, targets,
      torch::nn::functional::CrossEntropyFuncOptions().ignore_index(-1).reduction(torch::kSum));
  CHECK_THAT(linear_cross_entropy(predictions(hidden, weight, bias), targets, 0.5),
             AllClose(0.5 * expected, 1e-12));
  check_gradients(
      [&](const Tensors& in) {
        return linear_cross_entropy(predictions(in[0], in[1], in[2]), targets, 0.5);
      },
      {hidden, weight, bias});
}

TEST_CASE("linear_distillation mixes the text's cross-entropy and the teacher's divergence",
          "[functions]") {
  const auto hidden = seeded_randn({4, 5}), weight = seeded_randn({9, 5}, 2);
  const Predictions teacher{seeded_randn({4, 3}, 3), {seeded_randn({9, 3}, 4)}};
  const auto targets = torch::tensor({3, -1, 8, 0}, torch::kInt64);
  const auto kept = torch::tensor({0, 2, 3}, torch::kInt64);
  const double share = GENERATE(0.0, 0.4, 1.0), temperature = GENERATE(1.0, 2.0);
  const auto loss = [&](const Tensors& in) {
    return linear_distillation({in[0], {in[1]}}, targets, teacher, {share, temperature}, 0.25);
  };
  const auto logits = hidden.matmul(weight.t()).index({kept});
  const auto log_q = (logits / temperature).log_softmax(-1);
  const auto log_p =
      (teacher.hidden.matmul(teacher.head.weight.t()).index({kept}) / temperature).log_softmax(-1);
  const auto text = -logits.log_softmax(-1).gather(1, targets.index({kept}).unsqueeze(1)).sum();
  const auto divergence = (log_p.exp() * (log_p - log_q)).sum();
  const auto expected =
      0.25 * ((1 - share) * text + share * temperature * temperature * divergence);
  CHECK_THAT(loss({hidden, weight}), AllClose(expected, 1e-12));
  check_gradients(loss, {hidden, weight});
}

TEST_CASE("a student that equals its teacher has no gradient", "[functions]") {
  const auto hidden = seeded_randn({4, 5}).requires_grad_(), weight = seeded_randn({9, 5}, 2);
  const auto targets = torch::tensor({3, 1, 8, 0}, torch::kInt64);
  const auto loss = linear_distillation({hidden, {weight}}, targets, {hidden.detach(), {weight}},
                                        {1.0, 2.0}, 1.0);
  loss.backward();
  CHECK(loss.item<double>() == Approx(0).margin(1e-12));
  CHECK(hidden.grad().abs().max().item<double>() < 1e-12);
}

TEST_CASE("a teacher of another vocabulary is refused", "[functions]") {
  const auto hidden = seeded_randn({4, 5}), weight = seeded_randn({9, 5}, 2);
  const auto targets = torch::zeros({4}, torch::kInt64);
  CHECK_THROWS_WITH(linear_distillation({hidden, {weight}}, targets,
                                        {hidden, {weight.narrow(0, 0, 8)}}, {0.5, 1.0}, 1.0),
                    Contains("teacher's"));
}

TEST_CASE("token losses are the cross-entropy of each row and zero where the target is negative",
          "[functions]") {
  const auto hidden = seeded_randn({4, 5}), weight = seeded_randn({9, 5}, 2);
  const auto targets = torch::tensor({3, -1, 8, 0}, torch::kInt64);
  auto expected = -hidden.matmul(weight.t())
                       .log_softmax(-1)
                       .gather(1, targets.clamp_min(0).unsqueeze(1))
                       .squeeze(1);
  expected[1] = 0;
  CHECK_THAT(linear_token_losses({hidden, {weight}}, targets), AllClose(expected, 1e-12));
}

TEST_CASE("a cross-entropy refuses targets that do not match its rows", "[functions]") {
  const auto hidden = seeded_randn({4, 5}), weight = seeded_randn({9, 5}, 2);
  const auto targets = torch::zeros({5}, torch::kInt64);
  CHECK_THROWS_WITH(linear_cross_entropy({hidden, {weight}}, targets, 1),
                    Contains("targets are [5]"));
  CHECK_THROWS_WITH(linear_token_losses({hidden, {weight}}, targets), Contains("targets are [5]"));
}

TEST_CASE("a checkpointed function has the same value and gradients", "[functions]") {
  const auto x = seeded_randn({3, 4});
  const auto inside = [](const Tensor& input) { return torch::tanh(input * input) + input; };
  CHECK_THAT(checkpoint(inside, x), AllClose(inside(x)));
  check_gradients([&](const Tensors& in) { return checkpoint(inside, in[0]); }, {x});
}

TEST_CASE("a checkpointed function accumulates the gradients of captured parameters",
          "[functions]") {
  const auto x = seeded_randn({3, 4}).requires_grad_(),
             captured = seeded_randn({4}, 2).requires_grad_();
  const auto inside = [&](const Tensor& input) { return (input * captured).sin(); };
  checkpoint(inside, x).sum().backward();
  const auto value = [&] { return inside(x).sum().item<double>(); };
  CHECK_THAT(captured.grad(), AllClose(numerical_gradient(value, captured.detach()), 1e-8));
  CHECK_THAT(x.grad(), AllClose(numerical_gradient(value, x.detach()), 1e-8));
}

TEST_CASE("a checkpointed function runs once forward and once more in backward", "[functions]") {
  int64_t n_calls = 0;
  const auto inside = [&](const Tensor& input) {
    ++n_calls;
    return input.exp();
  };
  const auto x = seeded_randn({3}).requires_grad_();
  const auto y = checkpoint(inside, x);
  CHECK(n_calls == 1);
  y.sum().backward();
  CHECK(n_calls == 2);
}

}  // namespace
}  // namespace regroup
