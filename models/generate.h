// models/generate.h: continues prompts with a K/V cache.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "models/decoder.h"

namespace regroup {

/// How the next token is drawn from its logits.
struct Sampling {
  double temperature = 0;        // 0: the most likely token
  std::optional<int64_t> top_k;  // only among the k most likely
  std::optional<double>
      top_p;  // only among the most likely that together reach p (Holtzman et al. 2020)
  uint64_t seed = 0;
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

/// logits: [B, vocab_size] -> tokens [B]. Draws from the generator unless the temperature is 0.
torch::Tensor sample(const torch::Tensor& logits, const Sampling& sampling,
                     at::Generator& generator);

/// Continues prompts [B, T] by up to n_new tokens. on_token receives each step's tokens [B] and
/// returns false to stop. Throws Error, which names the tensor or layer to blame, if logits are not
/// finite.
void generate(Decoder& model, const torch::Tensor& prompts, int64_t n_new, const Sampling& sampling,
              const std::function<bool(const torch::Tensor&)>& on_token);

}  // namespace regroup
