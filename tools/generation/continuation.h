// tools/generation/continuation.h: what a model adds to prompts, and what ends it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/generate.h"
#include "tools/generation/prompts.h"
#include "tools/generation/tokenizer.h"

namespace regroup {

/// Tokens and texts that end a continuation early.
struct Endings {
  std::vector<int64_t> eos_ids;
  std::vector<std::string> stops;  // texts
};

/// Tokens and, where these are text, what they say.
class Continuation {
 public:
  /// tokenizer: null where only ids are asked for, and then there are no stop texts. Both must
  /// outlive this.
  Continuation(const Endings& endings, Tokenizer* tokenizer)
      : endings_(&endings), tokenizer_(tokenizer) {}

  void add(int64_t token);
  bool has_ended() const { return ended_by_.has_value(); }
  /// "eos", "stop" or "length".
  std::string stopped_by() const { return ended_by_.value_or("length"); }

  /// All tokens that were added, those of an eos or a stop text too.
  const std::vector<int64_t>& tokens() const { return tokens_; }
  /// Ends before a stop text; nullopt without a tokenizer.
  std::optional<std::string> text() const;

 private:
  const Endings* endings_;
  Tokenizer* tokenizer_;
  std::vector<int64_t> tokens_;
  std::optional<std::string> ended_by_;
};

/// A model, and how it continues prompts.
struct Generator {
  Tokenizer& tokenizer;
  Endings endings;
  Decoder model;
  Sampling sampling;
  int64_t n_new;
  uint64_t seed;  // of the prompt on line 1; that of line N is N - 1 higher
};

/// Prompts of equal length.
using PromptBatch = std::vector<const Prompt*>;

/// Continues a batch of prompts. -> the continuations in the batch's order, the same as for each
/// prompt alone. on_step is called after each step, with the continuations so far. Throws as
/// generate() and the Tokenizer.
std::vector<Continuation> continue_prompts(
    Generator& generator, const PromptBatch& batch,
    const std::function<void(const std::vector<Continuation>&)>& on_step);

/// Indices of prompts of equal length, at most most_at_once in a batch; batches are in the order of
/// their first prompts.
std::vector<std::vector<size_t>> equal_lengths(const std::vector<Prompt>& prompts,
                                               size_t most_at_once);

}  // namespace regroup
