#include "models/weight_copy.h"

#include <torch/types.h>
#include <torch/utils.h>

namespace regroup {
namespace {

constexpr int64_t kBytesWorthAWriter = int64_t{256} << 20;

int64_t bytes_of(const FlatParameters& block) {
  return block.numel() * static_cast<int64_t>(c10::elementSize(block.dtype()));
}

/// Which of n processes writes what begins at a byte: stretches of like size, in order.
int writer_of(int64_t first_byte, int64_t total_bytes, int n_processes) {
  return static_cast<int>(first_byte * n_writers(total_bytes, n_processes) /
                          std::max<int64_t>(1, total_bytes));
}

}  // namespace

int64_t n_writers(int64_t model_bytes, int64_t n_processes) {
  return std::clamp<int64_t>(model_bytes / kBytesWorthAWriter, 1, n_processes);
}

void WeightCopy::reserve(const Decoder& decoder) {
  blocks_.resize(decoder.blocks().size());
  int64_t total = 0, first = 0;
  for (const auto& block : decoder.blocks()) total += bytes_of(block);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto& block = decoder.blocks()[i];
    auto& copy = blocks_[i];
    copy.parameters = decoder.block_specs()[i].parameters;
    copy.writer = writer_of(first, total, size_);
    first += bytes_of(block);
    if (copy.writer == rank_ && !copy.values.defined())
      copy.values = torch::zeros({block.numel()}, decoder.options().device(torch::kCPU));
  }
}

void WeightCopy::take(Decoder& decoder) {
  const torch::NoGradGuard no_grad;
  decoder.begin_pass(/*is_last=*/false);
  reserve(decoder);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto values = decoder.blocks()[i].flat();
    if (blocks_[i].writer == rank_) blocks_[i].values.copy_(values);
  }
}

std::vector<ParameterSource> WeightCopy::sources() const {
  std::vector<ParameterSource> sources;
  for (const auto& block : blocks_) {
    int64_t offset = 0;
    for (const auto& parameter : block.parameters) {
      const int64_t numel = c10::multiply_integers(parameter.spec.shape);
      const auto values = [&block, &parameter, offset, numel] {
        return block.values.narrow(0, offset, numel).view(parameter.spec.shape);
      };
      sources.push_back({parameter.id, values, std::nullopt, block.writer});
      offset += numel;
    }
  }
  return sources;
}

}  // namespace regroup
