#include "models/decoder_config.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "framework/errors/error.h"
#include "framework/settings/settings.h"

namespace regroup {
namespace {

constexpr double kInitStd = 0.02;
constexpr int64_t kLargestSize = int64_t{1}
                                 << 31;  // of any one number: products of two stay within int64

std::string divisors_text(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t i = 1; i <= n && divisors.size() < 32; ++i) {
    if (n % i == 0) divisors.push_back(i);
  }
  return c10::Join(", ", divisors);
}

std::string kv_head_problem(int64_t n_kv_head, int64_t n_head) {
  if (n_kv_head >= 1 && n_head >= 1 && n_head % n_kv_head == 0) return "";
  return c10::str("n_kv_head (", n_kv_head, ") does not divide n_head (", n_head,
                  "); choose one of ", divisors_text(n_head));
}

std::string scaling_text(const RopeScaling& scaling) {
  const auto factor = print_number(scaling.factor);
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      return "none";
    case RopeScaling::Kind::kLinear:
      return "linear by " + factor;
    case RopeScaling::Kind::kLlama3:
      break;
  }
  return c10::str("llama3 by ", factor, ", frequency factors ",
                  print_number(scaling.low_freq_factor), " and ",
                  print_number(scaling.high_freq_factor), ", from ", scaling.original_max_seq_len,
                  " positions");
}

BlockSpec embedding_block(const DecoderConfig& config) {
  return {{{"embedding.weight", {config.vocab_size, config.d_model}, kInitStd, true}}, {{1}}};
}

BlockSpec layer_block(const DecoderConfig& config, int64_t layer) {
  const int64_t d = config.d_model, d_ff = config.d_ff;
  const int64_t q = config.n_head * config.head_dim;
  const int64_t kv = config.n_kv_head[static_cast<size_t>(layer)] * config.head_dim;
  // Projections into the residual stream start smaller, so that its variance does not grow with
  // depth (GPT-2).
  const double residual_std = kInitStd / std::sqrt(2.0 * static_cast<double>(config.n_layer));
  const std::string prefix = c10::str("layers.", layer, ".");
  BlockSpec block;
  const auto add = [&](const char* name, std::vector<int64_t> shape, double std, bool decay) {
    block.parameters.push_back({prefix + name, std::move(shape), std, decay});
  };
  add("attention_norm.weight", {d}, 0, false);
  add("attention.q_proj.weight", {q, d}, kInitStd, true);
  add("attention.k_proj.weight", {kv, d}, kInitStd, true);
  add("attention.v_proj.weight", {kv, d}, kInitStd, true);
  add("attention.o_proj.weight", {d, q}, residual_std, true);
  add("mlp_norm.weight", {d}, 0, false);
  add("mlp.gate_proj.weight", {d_ff, d}, kInitStd, true);
  add("mlp.up_proj.weight", {d_ff, d}, kInitStd, true);
  add("mlp.down_proj.weight", {d, d_ff}, residual_std, true);
  block.operands = {{1}, {3}, {1}, {1}, {2}, {1}};
  return block;
}

BlockSpec final_block(const DecoderConfig& config) {
  BlockSpec block{{{"final_norm.weight", {config.d_model}, 0, false}}, {{1}}};
  if (!config.tie_embeddings) {
    block.parameters.push_back(
        {"head.weight", {config.vocab_size, config.d_model}, kInitStd, true});
    block.operands.push_back({1});
  }
  return block;
}

}  // namespace

bool DecoderConfig::uniform_kv_heads() const {
  return std::all_of(n_kv_head.begin(), n_kv_head.end(),
                     [&](int64_t n) { return n == n_kv_head[0]; });
}

int64_t DecoderConfig::kv_head_multiple() const {
  return std::accumulate(n_kv_head.begin(), n_kv_head.end(), int64_t{1},
                         std::lcm<int64_t, int64_t>);
}

int64_t DecoderConfig::kv_bytes_per_token(int64_t bytes_per_number) const {
  const int64_t heads = std::accumulate(n_kv_head.begin(), n_kv_head.end(), int64_t{0});
  return 2 * heads * head_dim * bytes_per_number;
}

int64_t DecoderConfig::n_parameters() const {
  int64_t total = 0;
  for (const auto& block : decoder_blocks(*this)) {
    for (const auto& parameter : block.parameters) total += c10::multiply_integers(parameter.shape);
  }
  return total;
}

std::vector<std::string> DecoderConfig::problems() const {
  std::vector<std::string> problems;
  const std::pair<const char*, int64_t> sizes[] = {
      {"n_layer", n_layer},        {"d_model", d_model}, {"n_head", n_head},
      {"head_dim", head_dim},      {"d_ff", d_ff},       {"vocab_size", vocab_size},
      {"max_seq_len", max_seq_len}};
  for (const auto& [name, value] : sizes) {
    if (value < 1 || value > kLargestSize) {
      problems.push_back(c10::str(name, " is ", value, ", expected 1 to ", kLargestSize));
    }
  }
  if (head_dim % 2 != 0)
    problems.push_back(c10::str("head_dim (", head_dim, ") is odd; RoPE rotates pairs of dims"));
  if (static_cast<int64_t>(n_kv_head.size()) != n_layer) {
    problems.push_back(
        c10::str("n_kv_head has ", n_kv_head.size(), " numbers for ", n_layer, " layers"));
  }
  for (const int64_t heads : n_kv_head) {
    const auto problem = kv_head_problem(heads, n_head);
    if (problem.empty()) continue;
    problems.push_back(problem);
    break;
  }
  if (!(rope_theta > 0) || !std::isfinite(rope_theta)) {
    problems.push_back(c10::str("rope_theta is ", rope_theta, ", expected above 0"));
  }
  if (!(norm_eps >= 0) || !std::isfinite(norm_eps)) {
    problems.push_back(c10::str("norm_eps is ", norm_eps, ", expected 0 or more"));
  }
  return problems;
}

std::vector<std::pair<std::string, std::string>> DecoderConfig::fields() const {
  return {{"n_layer", c10::str(n_layer)},
          {"d_model", c10::str(d_model)},
          {"n_head", c10::str(n_head)},
          {"n_kv_head", kv_heads_text(n_kv_head)},
          {"head_dim", c10::str(head_dim)},
          {"d_ff", c10::str(d_ff)},
          {"vocab_size", c10::str(vocab_size)},
          {"max_seq_len", c10::str(max_seq_len)},
          {"rope_theta", print_number(rope_theta)},
          {"rope_scaling", scaling_text(rope_scaling)},
          {"norm_eps", print_number(norm_eps)},
          {"tie_embeddings", tie_embeddings ? "true" : "false"}};
}

std::string kv_heads_text(const std::vector<int64_t>& n_kv_head) {
  const bool uniform =
      std::all_of(n_kv_head.begin(), n_kv_head.end(), [&](int64_t n) { return n == n_kv_head[0]; });
  return uniform && !n_kv_head.empty() ? c10::str(n_kv_head[0]) : c10::Join(",", n_kv_head);
}

std::vector<int64_t> kv_heads_per_layer(const std::vector<int64_t>& n_kv_head, int64_t n_layer,
                                        int64_t n_head) {
  const auto count = static_cast<int64_t>(n_kv_head.size());
  if (count != 1 && count != n_layer) {
    throw request_error("n_kv_head", c10::str(count, " numbers for ", n_layer, " layers"),
                        "Give one number for all layers, or one a layer.");
  }
  for (const int64_t heads : n_kv_head) {
    const auto problem = kv_head_problem(heads, n_head);
    if (!problem.empty()) throw request_error("K/V heads", problem, "");
  }
  return count == n_layer ? n_kv_head
                          : std::vector<int64_t>(static_cast<size_t>(n_layer), n_kv_head[0]);
}

std::vector<BlockSpec> decoder_blocks(const DecoderConfig& config) {
  std::vector<BlockSpec> blocks{embedding_block(config)};
  for (int64_t layer = 0; layer < config.n_layer; ++layer)
    blocks.push_back(layer_block(config, layer));
  blocks.push_back(final_block(config));
  return blocks;
}

}  // namespace regroup
