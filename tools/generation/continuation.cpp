#include "tools/generation/continuation.h"

#include <torch/types.h>

#include <algorithm>
#include <map>

#include "framework/text/growing_text.h"

namespace regroup {

void Continuation::add(int64_t token) {
  tokens_.push_back(token);
  const auto& [eos_ids, stops] = *endings_;
  if (std::find(eos_ids.begin(), eos_ids.end(), token) != eos_ids.end()) ended_by_ = "eos";
  if (stops.empty()) return;
  const auto text = tokenizer_->decode(tokens_);
  if (find_first_stop(text, stops) != std::string::npos) ended_by_ = "stop";
}

std::optional<std::string> Continuation::text() const {
  if (!tokenizer_) return std::nullopt;
  const auto text = tokenizer_->decode(tokens_);
  return text.substr(0, find_first_stop(text, endings_->stops));
}

std::vector<Continuation> continue_prompts(
    Generator& generator, const PromptBatch& batch,
    const std::function<void(const std::vector<Continuation>&)>& on_step) {
  std::vector<torch::Tensor> rows;
  std::vector<uint64_t> seeds;
  std::vector<Continuation> continuations;
  for (const Prompt* prompt : batch) {
    rows.push_back(torch::tensor(prompt->tokens));
    seeds.push_back(generator.seed + prompt->line - 1);
    const bool needs_text = prompt->is_text || !generator.endings.stops.empty();
    continuations.emplace_back(generator.endings, needs_text ? &generator.tokenizer : nullptr);
  }
  generate(generator.model, torch::stack(rows), generator.n_new, generator.sampling, seeds,
           [&](const torch::Tensor& next) {
             bool goes_on = false;
             for (size_t i = 0; i < continuations.size(); ++i) {
               auto& continuation = continuations[i];
               if (continuation.has_ended()) continue;
               continuation.add(next[static_cast<int64_t>(i)].item<int64_t>());
               goes_on |= !continuation.has_ended();
             }
             on_step(continuations);
             return goes_on;
           });
  return continuations;
}

std::vector<std::vector<size_t>> equal_lengths(const std::vector<Prompt>& prompts,
                                               size_t most_at_once) {
  std::vector<std::vector<size_t>> batches;
  std::map<size_t, size_t> open_batches;  // by length
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto [batch, is_new] = open_batches.try_emplace(prompts[i].tokens.size(), batches.size());
    const bool is_full = !is_new && batches[batch->second].size() == most_at_once;
    if (is_full) batch->second = batches.size();
    if (is_new || is_full) batches.emplace_back();
    batches[batch->second].push_back(i);
  }
  return batches;
}

}  // namespace regroup
