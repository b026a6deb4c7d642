#include "models/config/decoder_config.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "framework/errors/error.h"

namespace regroup {
namespace {

// The largest value of a size, so that products of two stay within int64.
constexpr int64_t kLargestSize = int64_t{1} << 31;

std::string divisors_text(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t i = 1; i <= n && divisors.size() < 32; ++i) {
    if (n % i == 0) divisors.push_back(i);
  }
  return c10::Join(", ", divisors);
}

bool divides(int64_t part, int64_t whole) { return part >= 1 && whole >= 1 && whole % part == 0; }

std::string kv_head_problem(int64_t n_kv_head, int64_t n_head) {
  if (divides(n_kv_head, n_head)) return "";
  return c10::str("n_kv_head (", n_kv_head, ") does not divide n_head (", n_head,
                  "); choose one of ", divisors_text(n_head));
}

/// Problems, each named once however many layers have it.
class Problems {
 public:
  void add(const std::string& problem) {
    if (std::find(all.begin(), all.end(), problem) == all.end()) all.push_back(problem);
  }
  void check_size(const char* name, int64_t value) {
    if (value < 1 || value > kLargestSize)
      add(c10::str(name, " is ", value, ", expected 1 to ", kLargestSize));
  }
  void check_above_0(const char* name, double value) {
    if (!(value > 0) || !std::isfinite(value))
      add(c10::str(name, " is ", value, ", expected above 0"));
  }
  void check_norm(const std::optional<NormConfig>& norm) {
    if (norm && (!(norm->eps >= 0) || !std::isfinite(norm->eps)))
      add(c10::str("norm_eps is ", norm->eps, ", expected 0 or more"));
  }
  void check_rotary(const RotaryConfig& rotary, int64_t head_dim) {
    check_above_0("rope_theta", rotary.theta);
    if (rotary.dims < 2 || rotary.dims > head_dim) {
      add(c10::str("RoPE rotates ", rotary.dims, " dims, expected 2 to head_dim (", head_dim, ")"));
    } else if (rotary.dims % 2 != 0) {
      add(rotary.dims == head_dim
              ? c10::str("head_dim (", head_dim, ") is odd; RoPE rotates pairs of dims")
              : c10::str("RoPE rotates ", rotary.dims, " dims, which is odd"));
    }
    for (const auto* factors : {&rotary.scaling.short_factor, &rotary.scaling.long_factor}) {
      if (rotary.scaling.kind == RopeScaling::Kind::kLongRope &&
          static_cast<int64_t>(factors->size()) != rotary.dims / 2)
        add(c10::str("longrope has ", factors->size(), " factors for ", rotary.dims / 2,
                     " planes"));
    }
  }
  void check_scores(const ScoreRule& scores) {
    check_above_0("the scale of attention scores", scores.scale);
    if (scores.soft_cap) check_above_0("the soft cap of attention scores", *scores.soft_cap);
    if (scores.window) check_size("the sliding window", *scores.window);
  }
  void check_attention(const AttentionConfig& attention) {
    check_size("n_head", attention.n_head);
    check_size("head_dim", attention.head_dim);
    const auto heads = kv_head_problem(attention.n_kv_head, attention.n_head);
    if (!heads.empty()) add(heads);
    if (attention.rotary) check_rotary(*attention.rotary, attention.head_dim);
    if (attention.qk_norm) check_norm(attention.qk_norm->norm);
    if (attention.clip_qkv) check_above_0("clip_qkv", *attention.clip_qkv);
    check_scores(attention.scores);
  }

  std::vector<std::string> all;
};

}  // namespace

std::vector<int64_t> DecoderConfig::n_kv_head() const {
  std::vector<int64_t> heads;
  for (const auto& layer : layers) heads.push_back(layer.attention.n_kv_head);
  return heads;
}

void DecoderConfig::set_n_kv_head(const std::vector<int64_t>& n_kv_head) {
  for (size_t i = 0; i < layers.size(); ++i) layers[i].attention.n_kv_head = n_kv_head.at(i);
}

bool DecoderConfig::uniform_kv_heads() const {
  return std::all_of(layers.begin(), layers.end(), [&](const LayerConfig& layer) {
    return layer.attention.n_kv_head == layers[0].attention.n_kv_head;
  });
}

int64_t DecoderConfig::kv_head_multiple() const {
  const auto heads = n_kv_head();
  return std::accumulate(heads.begin(), heads.end(), int64_t{1}, std::lcm<int64_t, int64_t>);
}

int64_t DecoderConfig::kv_bytes_per_token(int64_t bytes_per_number) const {
  int64_t numbers = 0;
  for (const auto& layer : layers)
    numbers += 2 * layer.attention.n_kv_head * layer.attention.head_dim;
  return numbers * bytes_per_number;
}

std::vector<std::string> DecoderConfig::problems() const {
  Problems problems;
  problems.check_size("n_layer", n_layer());
  problems.check_size("d_model", d_model);
  problems.check_size("vocab_size", vocab_size);
  problems.check_size("max_seq_len", max_seq_len);
  for (const auto& layer : layers) {
    problems.check_attention(layer.attention);
    problems.check_size("d_ff", layer.mlp.d_ff);
    for (const auto& norm : {layer.attention_in, layer.attention_out, layer.mlp_in, layer.mlp_out})
      problems.check_norm(norm);
  }
  problems.check_norm(final_norm);
  problems.check_norm(embedding.norm);
  problems.check_size("the embedding's width", embedding_width());
  if (head.soft_cap) problems.check_above_0("the soft cap of logits", *head.soft_cap);
  return problems.all;
}

std::string kv_heads_text(const std::vector<int64_t>& n_kv_head) {
  const bool uniform =
      std::all_of(n_kv_head.begin(), n_kv_head.end(), [&](int64_t n) { return n == n_kv_head[0]; });
  return uniform && !n_kv_head.empty() ? c10::str(n_kv_head[0]) : c10::Join(",", n_kv_head);
}

std::string attention_kind(const DecoderConfig& config) {
  const auto everywhere = [&](const auto& is_kind) {
    return std::all_of(config.layers.begin(), config.layers.end(),
                       [&](const LayerConfig& layer) { return is_kind(layer.attention); });
  };
  if (everywhere([](const auto& attention) { return attention.n_kv_head == attention.n_head; }))
    return "MHA";
  return everywhere([](const auto& attention) { return attention.n_kv_head == 1; }) ? "MQA" : "GQA";
}

std::vector<int64_t> kv_heads_per_layer(const std::vector<int64_t>& n_kv_head,
                                        const std::vector<int64_t>& divided,
                                        const std::string& kind) {
  const size_t count = n_kv_head.size();
  if (count != 1 && count != divided.size()) {
    throw request_error("n_kv_head", c10::str(count, " numbers for ", divided.size(), " layers"),
                        "Give one number for all layers, or one a layer.");
  }
  std::vector<int64_t> per_layer;
  for (size_t layer = 0; layer < divided.size(); ++layer) {
    per_layer.push_back(n_kv_head[count == 1 ? 0 : layer]);
    if (divides(per_layer.back(), divided[layer])) continue;
    throw request_error("n_kv_head",
                        c10::str(per_layer.back(), " does not divide the ", divided[layer], " ",
                                 kind, " that layer ", layer, " has"),
                        "Choose one of " + divisors_text(divided[layer]) + ".");
  }
  return per_layer;
}

}  // namespace regroup
