// trainers/scoring.h: a model's quality on held-out text: loss, choices, agreement with a
// reference. The work is divided over the ranks: every rank must call each function, and all get
// the result.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "framework/data/batches.h"
#include "framework/data/token_data.h"
#include "framework/distributed/world.h"
#include "framework/functions/likeness.h"
#include "models/decoder.h"

namespace regroup {

/// Mean cross-entropy of the first n_batches * batch windows of seq_len tokens, packed as in
/// training, in nats a token.
double window_loss(Decoder& model, Batches& windows, int64_t n_batches, int64_t batch,
                   World& world);

/// Windows of a document longer than the model's context: inputs of `window` tokens, each `stride`
/// after the last; a later window counts only its last `stride` targets.
struct ScoringWindows {
  int64_t window, stride;
};

/// Log-probability of every token of a split given its document's tokens before it: [n_tokens]
/// float32, 0 for a document's first token. Documents do not see each other. progress gets the
/// tokens done.
torch::Tensor score_tokens(Decoder& model, const TokenSplit& split, const ScoringWindows& windows,
                           World& world, const std::function<void(int64_t)>& progress);

/// Likeness of the model to the reference, over the tokens that score_tokens scores.
Likeness compare_predictions(Decoder& model, Decoder& reference, const TokenSplit& split,
                             const ScoringWindows& windows, World& world,
                             const std::function<void(int64_t)>& progress);

/// Share of questions whose correct option has the highest sum of log-probabilities given the
/// context.
double choice_accuracy(Decoder& model, const Choices& choices, World& world,
                       const std::function<void(int64_t)>& progress);

}  // namespace regroup
