#include "framework/parameters/adamw.h"

#include <torch/types.h>

#include "framework/kernels/kernels.h"

namespace regroup {
namespace {

/// Adjacent elements with the same weight decay, counted from own().begin.
struct Segment {
  int64_t begin, end;
  bool weight_decay;
};

std::vector<Segment> segments(const FlatParameters& block) {
  std::vector<Segment> result;
  const auto own = block.own();
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    const bool decay = block.parameters()[i].weight_decay;
    const int64_t next = i + 1 < block.parameters().size() ? block.offset(i + 1) : block.numel();
    const int64_t begin = std::max(block.offset(i), own.begin) - own.begin;
    const int64_t end = std::min(next, own.end) - own.begin;
    if (begin >= end) continue;
    if (result.empty() || result.back().weight_decay != decay) {
      result.push_back({begin, end, decay});
    } else {
      result.back().end = end;
    }
  }
  return result;
}

}  // namespace

AdamW::AdamW(std::vector<FlatParameters>& blocks, const AdamWOptions& options)
    : blocks_(blocks), options_(options) {
  for (const auto& block : blocks) {
    const auto values = block.own_values();
    const auto wide = values.options().dtype(torch::kFloat32);
    state_.push_back({values.to(torch::kFloat32), torch::zeros_like(values, wide),
                      torch::zeros_like(values, wide)});
  }
}

void AdamW::step(double lr, double gradient_scale) {
  ++steps_;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    auto& block = blocks_[i];
    const auto values = block.own_values();
    const auto copy = block.dtype() == torch::kFloat32 ? torch::Tensor() : values;
    for (const auto& segment : segments(block)) {
      const auto part = [&](const torch::Tensor& tensor) {
        return tensor.narrow(0, segment.begin, segment.end - segment.begin);
      };
      const double decay = segment.weight_decay ? options_.weight_decay : 0;
      kernels::adamw_(
          part(state_[i].master), part(block.gradient()), part(state_[i].first_moment),
          part(state_[i].second_moment), copy.defined() ? part(copy) : copy,
          {lr, options_.beta1, options_.beta2, options_.eps, decay, gradient_scale, steps_});
    }
    block.publish();
  }
}

double gradient_square(const std::vector<FlatParameters>& blocks) {
  double squares = 0;
  for (const auto& block : blocks) squares += kernels::sum_of_squares(block.gradient());
  return squares;
}

}  // namespace regroup
