#include "trainers/scoring.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "framework/functions/cross_entropy.h"
#include "models/finite.h"

namespace regroup {
namespace {

using torch::Tensor;

constexpr int64_t kTokensPerBatch = 8192;
constexpr int64_t kIgnored = -1;  // marks a target that does not count

/// A range of a split that the model runs over: inputs [begin, begin + length). Each target is the
/// next token; earlier ranges counted the first `skipped` targets.
struct Stretch {
  int64_t begin, length, skipped;
};

/// Cuts documents into ranges; every token but a document's first counts once as a target.
std::vector<Stretch> cut_documents(const TokenSplit& split, const ScoringWindows& windows) {
  std::vector<Stretch> stretches;
  const auto* offsets = split.offsets().const_data_ptr<int64_t>();
  for (int64_t document = 0; document < split.n_documents(); ++document) {
    const int64_t begin = offsets[document], end = offsets[document + 1];
    int64_t counted = begin + 1;  // first token not yet counted as a target
    for (int64_t first = begin; counted < end; first += windows.stride) {
      const int64_t length = std::min(windows.window, end - 1 - first);
      stretches.push_back({first, length, counted - (first + 1)});
      counted = first + length + 1;
    }
  }
  return stretches;
}

/// A batch of sequences of unequal length, padded on the right. Attention is causal, so padding
/// changes nothing.
struct PaddedBatch {
  Tensor inputs;   // [B, T]
  Tensor targets;  // [B, T], kIgnored where padded or counted elsewhere
};

PaddedBatch padded_batch(const std::vector<Tensor>& sequences,
                         const std::vector<int64_t>& skipped) {
  int64_t longest = 0;
  for (const auto& sequence : sequences) longest = std::max(longest, sequence.size(0) - 1);
  const auto rows = static_cast<int64_t>(sequences.size());
  PaddedBatch batch{torch::zeros({rows, longest}, torch::kInt64),
                    torch::full({rows, longest}, kIgnored, torch::kInt64)};
  for (int64_t row = 0; row < rows; ++row) {
    const auto& sequence = sequences[static_cast<size_t>(row)];
    const int64_t length = sequence.size(0) - 1, from = skipped[static_cast<size_t>(row)];
    batch.inputs[row].narrow(0, 0, length).copy_(sequence.narrow(0, 0, length));
    batch.targets[row]
        .narrow(0, from, length - from)
        .copy_(sequence.narrow(0, from + 1, length - from));
  }
  return batch;
}

/// Calls visit(item, counts) for this rank's share of items 0 .. n - 1. All ranks make the same
/// number of calls, because sharded weights are gathered by all: a rank without an item repeats the
/// first one with counts = false.
template <typename Visit>
void for_each_share(int64_t n, const World& world, const Visit& visit) {
  for (int64_t round = 0; round < n; round += world.size()) {
    const int64_t item = round + world.rank();
    visit(item < n ? item : 0, item < n);
  }
}

using Stretches = std::vector<Stretch>;

/// Batches of about kTokensPerBatch tokens, like lengths together.
std::vector<Stretches> in_batches(Stretches stretches) {
  std::stable_sort(stretches.begin(), stretches.end(),
                   [](const Stretch& a, const Stretch& b) { return a.length > b.length; });
  std::vector<Stretches> batches;
  for (size_t next = 0; next < stretches.size();) {
    const int64_t longest = stretches[next].length;
    const auto count = static_cast<size_t>(std::max<int64_t>(1, kTokensPerBatch / longest));
    const size_t end = std::min(next + count, stretches.size());
    batches.emplace_back(stretches.begin() + static_cast<int64_t>(next),
                         stretches.begin() + static_cast<int64_t>(end));
    next = end;
  }
  return batches;
}

PaddedBatch read_batch(const TokenSplit& split, const Stretches& stretches) {
  std::vector<Tensor> sequences;
  std::vector<int64_t> skipped;
  for (const auto& stretch : stretches) {
    sequences.push_back(split.read(stretch.begin, stretch.length + 1));
    skipped.push_back(stretch.skipped);
  }
  return padded_batch(sequences, skipped);
}

/// Calls visit(ranges of the batch, batch, counts) for this rank's batches of the split.
template <typename Visit>
void for_each_batch(const TokenSplit& split, const ScoringWindows& windows, const World& world,
                    const std::function<void(int64_t)>& progress, const Visit& visit) {
  const auto batches = in_batches(cut_documents(split, windows));
  std::vector<int64_t> done{0};  // done[i]: tokens counted in the first i batches
  for (const auto& batch : batches) {
    done.push_back(done.back());
    for (const auto& stretch : batch) done.back() += stretch.length - stretch.skipped;
  }
  const auto n = static_cast<int64_t>(batches.size());
  for_each_share(n, world, [&](int64_t item, bool counts) {
    const auto& stretches = batches[static_cast<size_t>(item)];
    visit(stretches, read_batch(split, stretches), counts);
    const int64_t of_all = std::min(n, item + world.size() - world.rank());
    if (progress && counts) progress(done[static_cast<size_t>(of_all)]);
  });
}

/// The model's losses of a batch's targets: [B, T] float32 on the CPU.
Tensor batch_losses(Decoder& model, const PaddedBatch& batch) {
  const auto device = model.options().device();
  const auto predictions = model.predictions(batch.inputs.to(device));
  return linear_token_losses(predictions, batch.targets.flatten().to(device))
      .view(batch.targets.sizes())
      .cpu();
}

/// batch_losses of a model that is used, not trained: throws Error if any is not finite.
Tensor finite_losses(Decoder& model, const PaddedBatch& batch) {
  const auto losses = batch_losses(model, batch);
  if (!losses.sum().isfinite().item<bool>())
    refuse_nonfinite_results(model, batch.inputs.to(model.options().device()));
  return losses;
}

/// Throws Error if the likeness of a batch is not finite.
void require_finite(const std::vector<double>& sums, Decoder& model, Decoder& reference,
                    const Tensor& inputs) {
  if (std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); })) return;
  require_finite_parameters(model);
  require_finite_parameters(reference);
  refuse_nonfinite_results(model, inputs);
}

}  // namespace

double window_loss(Decoder& model, Batches& windows, int64_t n_batches, int64_t batch,
                   World& world) {
  const torch::NoGradGuard no_grad;
  const int64_t n_sequences = std::min(n_batches * batch, windows.n_windows());
  double sum = 0;
  for_each_share((n_sequences + batch - 1) / batch, world, [&](int64_t item, bool counts) {
    const int64_t first = item * batch;
    const auto tokens = windows.gather(first, std::min(batch, n_sequences - first));
    const PaddedBatch full{tokens.narrow(1, 0, windows.seq_len()),
                           tokens.narrow(1, 1, windows.seq_len())};
    const double losses = batch_losses(model, full).sum(torch::kFloat64).item<double>();
    if (counts) sum += losses;
  });
  return world.sum({sum})[0] / static_cast<double>(n_sequences * windows.seq_len());
}

Tensor score_tokens(Decoder& model, const TokenSplit& split, const ScoringWindows& windows,
                    World& world, const std::function<void(int64_t)>& progress) {
  const torch::NoGradGuard no_grad;
  auto log_probabilities = torch::zeros({split.n_tokens()}, torch::kFloat32);
  for_each_batch(
      split, windows, world, progress,
      [&](const Stretches& stretches, const PaddedBatch& batch, bool counts) {
        const auto losses = finite_losses(model, batch);
        for (size_t row = 0; counts && row < stretches.size(); ++row) {
          const auto& [begin, length, skipped] = stretches[row];
          const auto counted =
              losses[static_cast<int64_t>(row)].narrow(0, skipped, length - skipped);
          log_probabilities.narrow(0, begin + 1 + skipped, length - skipped).copy_(-counted);
        }
      });
  world.all_reduce(log_probabilities);  // one rank has each token
  return log_probabilities;
}

Likeness compare_predictions(Decoder& model, Decoder& reference, const TokenSplit& split,
                             const ScoringWindows& windows, World& world,
                             const std::function<void(int64_t)>& progress) {
  const torch::NoGradGuard no_grad;
  const auto device = model.options().device();
  LikenessMeter meter;
  for_each_batch(split, windows, world, progress,
                 [&](const Stretches&, const PaddedBatch& batch, bool counts) {
                   const auto inputs = batch.inputs.to(device);
                   const auto targets = batch.targets.flatten().to(device);
                   const auto rows = targets.ge(0).nonzero().squeeze(-1);
                   const auto of_rows = [&](const Predictions& all) {
                     return Predictions{all.hidden.index_select(0, rows), all.head};
                   };
                   const auto found = of_rows(model.predictions(inputs));
                   const auto wanted = of_rows(reference.predictions(inputs));
                   if (!counts) return;
                   meter.add(found, wanted, targets.index_select(0, rows));
                   require_finite(meter.sums(), model, reference, inputs);
                 });
  meter.set_sums(world.sum(meter.sums()));
  return meter.mean();
}

double choice_accuracy(Decoder& model, const Choices& choices, World& world,
                       const std::function<void(int64_t)>& progress) {
  const torch::NoGradGuard no_grad;
  double right = 0;
  for_each_share(choices.size(), world, [&](int64_t question, bool counts) {
    const auto choice = choices[question];
    std::vector<Tensor> sequences;
    for (const auto& option : choice.options)
      sequences.push_back(torch::cat({choice.context, option}));
    const std::vector<int64_t> skipped(sequences.size(), choice.context.size(0) - 1);
    const auto losses =
        finite_losses(model, padded_batch(sequences, skipped)).sum(-1);  // of the options' tokens
    if (!counts) return;
    right += losses.argmin().item<int64_t>() == choice.gold;
    if (progress) progress(std::min(choices.size(), question + world.size() - world.rank()));
  });
  return world.sum({right})[0] / static_cast<double>(choices.size());
}

}  // namespace regroup
