// models/generate.h: continues prompts with a K/V cache.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "models/decoder.h"

namespace regroup {

/// How the next token is drawn from its logits.
struct Sampling {
  double temperature = 0;             // 0: the most likely token
  std::optional<int64_t> top_k = {};  // only among the k most likely
  /// Only among the most likely that together reach p (Holtzman et al. 2020).
  std::optional<double> top_p = {};
  /// Only among those at least min_p times as likely as the most likely (Nguyen et al. 2024).
  std::optional<double> min_p = {};
  /// Above 1: the tokens so far, the prompt's too, are less likely (Keskar et al. 2019).
  double repetition_penalty = 1;
};

/// Sequences of equal length that grow a token at a time.
class Generation {
 public:
  /// capacity: positions of the prompt and everything after it, at most the model's max_seq_len.
  Generation(Decoder& model, int64_t batch, int64_t capacity);

  /// tokens: [B, T], the prompt or the next tokens -> logits of the last position, [B, vocab_size]
  /// float32.
  torch::Tensor advance(const torch::Tensor& tokens);
  /// All tokens so far: [B, length].
  const torch::Tensor& seen() const { return seen_; }

 private:
  Decoder& model_;
  KvCache cache_;
  torch::Tensor seen_;
};

/// logits: [B, vocab_size], seen: [B, T], the tokens before -> the logits to draw from, -inf for
/// what is never drawn. The order of effects is that of transformers: repetition_penalty,
/// temperature, top_k, top_p, min_p. At temperature 0, repetition_penalty alone acts.
torch::Tensor adjusted_logits(const torch::Tensor& logits, const torch::Tensor& seen,
                              const Sampling& sampling);

/// Continues prompts [B, T] by up to n_new tokens. Row i draws from a generator seeded by seeds[i],
/// whatever is in the other rows; at temperature 0, seeds may be empty. on_tokens receives each
/// step's tokens [B] and returns false to stop. Throws Error, which names the tensor or layer to
/// blame, if logits are not finite.
void generate(Decoder& model, const torch::Tensor& prompts, int64_t n_new, const Sampling& sampling,
              const std::vector<uint64_t>& seeds,
              const std::function<bool(const torch::Tensor&)>& on_tokens);

}  // namespace regroup
