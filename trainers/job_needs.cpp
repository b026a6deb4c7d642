#include "trainers/job_needs.h"

#include <ATen/ceil_div.h>

#include <algorithm>
#include <numeric>

#include "models/config/decoder_parameters.h"
#include "models/weight_copy.h"

namespace regroup {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kMoments = 2 * kFloat;
constexpr int64_t kTeacherWidth = 2;           // bytes of a number: bfloat16
constexpr int64_t kLogits = int64_t{8} << 20;  // numbers of a chunk (framework/functions)

int64_t layer_numel(const DecoderConfig& config) {
  int64_t largest = 0;
  const auto blocks = decoder_blocks(config);
  for (size_t i = 1; i + 1 < blocks.size(); ++i) largest = std::max(largest, blocks[i].numel());
  return largest;
}

/// Block sizes with Sharing's padding.
class Blocks {
 public:
  Blocks(const DecoderConfig& config, const Division& division) {
    for (const auto& block : decoder_blocks(config))
      parts_.push_back(part_size(block.numel(), division.shards, division.replicas));
  }
  int64_t part() const { return std::accumulate(parts_.begin(), parts_.end(), int64_t{0}); }
  int64_t largest_part() const { return *std::max_element(parts_.begin(), parts_.end()); }
  int64_t embedding_part() const { return parts_.front(); }
  int64_t layer_parts() const { return part() - parts_.front() - parts_.back(); }

 private:
  std::vector<int64_t> parts_;
};

/// Numbers per token that a layer keeps for backward: the residual stream before attention and
/// before the MLP, queries, keys and values, the heads' output, gate and up.
int64_t kept_by_layer(const LayerConfig& layer, int64_t d_model) {
  const auto& attention = layer.attention;
  const int64_t heads_output = attention.n_head * attention.head_dim;
  return 2 * d_model + attention.qkv_width() + heads_output + layer.mlp.in_width();
}

/// Further numbers per token that a layer's backward uses; the MLP's gradients dominate.
int64_t at_work_in_layer(const LayerConfig& layer, int64_t d_model) {
  return 3 * layer.mlp.d_ff + 3 * d_model;
}

/// What the layers of one micro-batch keep for backward.
int64_t kept_bytes(const JobShape& shape) {
  const auto& c = shape.model;
  int64_t kept = c.d_model;
  for (const auto& layer : c.layers)
    kept += shape.recomputes ? c.d_model : kept_by_layer(layer, c.d_model);
  const auto width = static_cast<int64_t>(c10::elementSize(shape.dtype));
  return shape.micro_batch * shape.seq_len * width * kept;
}

int64_t activation_bytes(const JobShape& shape) {
  const auto& c = shape.model;
  const auto width = static_cast<int64_t>(c10::elementSize(shape.dtype));
  const int64_t tokens = shape.micro_batch * shape.seq_len;
  int64_t widest = 0, at_work = 0;
  for (const auto& layer : c.layers) {
    widest = std::max(widest, kept_by_layer(layer, c.d_model));
    at_work = std::max(at_work, at_work_in_layer(layer, c.d_model));
  }
  const int64_t in_backward =
      tokens * width * (at_work + (shape.recomputes ? widest : 0)) +
      layer_numel(c) * width;  // a layer's gradients, until they are added up
  // The head computes its gradient in chunks, in float32, and then copies it to the model's dtype.
  const int64_t head_gradient = c.vocab_size * c.d_model * (kFloat + width);
  const int64_t logits = std::min(kLogits, tokens * c.vocab_size);
  const int64_t teacher_logits =
      shape.teacher ? (width + kTeacherWidth) * logits + tokens * kTeacherWidth * c.d_model : 0;
  const int64_t in_head =
      tokens * width * 2 * c.d_model + head_gradient + 2 * width * logits + teacher_logits;
  return kept_bytes(shape) + std::max(in_backward, in_head);
}

/// Numbers that a forward pass gathers: every block once, a tied embedding again as head.
int64_t gathered_forward(const DecoderConfig& config, const Blocks& blocks) {
  return blocks.part() + (config.head.tied ? blocks.embedding_part() : 0);
}

/// The teacher's parameters; with several shards, also the block in use, the next one, and the
/// head, which waits for the model's own predictions.
int64_t teacher_bytes(const DecoderConfig& teacher, const Division& division) {
  const Blocks blocks(teacher, division);
  const int64_t gathers = division.shards > 1 ? 3 * division.shards * blocks.largest_part() : 0;
  return (blocks.part() + gathers) * kTeacherWidth;
}

int64_t sent_a_step(const JobShape& shape, const Division& division, const Blocks& blocks) {
  const auto width = static_cast<int64_t>(c10::elementSize(shape.dtype));
  const auto wire = static_cast<int64_t>(c10::elementSize(shape.wire_dtype));
  const int64_t micro_batches = at::ceil_div<int64_t>(
      at::ceil_div<int64_t>(shape.sequences_per_step, division.processes()), shape.micro_batch);
  // Backward gathers the layers again.
  const int64_t gathered = gathered_forward(shape.model, blocks) + blocks.layer_parts();
  const int64_t teacher =
      shape.teacher ? gathered_forward(*shape.teacher, Blocks(*shape.teacher, division)) : 0;
  const int64_t to_shards =
      (division.shards - 1) * (gathered * width + blocks.part() * wire + teacher * kTeacherWidth);
  const int64_t to_replicas =
      (division.replicas - 1) * (blocks.part() / division.replicas) * (wire + width);
  return micro_batches * to_shards + to_replicas;
}

}  // namespace

JobNeeds needs_of(const JobShape& shape, const Division& division) {
  const auto width = static_cast<int64_t>(c10::elementSize(shape.dtype));
  const auto wire = static_cast<int64_t>(c10::elementSize(shape.wire_dtype));
  const bool has_masters = shape.dtype != torch::kFloat32;
  const bool is_rounded = shape.wire_dtype != torch::kFloat32;
  const Blocks blocks(shape.model, division);
  const int64_t whole = division.shards * blocks.largest_part();
  JobNeeds needs;
  needs.parameters = blocks.part() * width;
  needs.gradients = blocks.part() * kFloat;
  // In a step of one micro-batch they take the place of activations (FlatParameters).
  if (division.processes() == 1 && shape.sequences_per_step <= shape.micro_batch)
    needs.gradients = std::max<int64_t>(0, needs.gradients - kept_bytes(shape));
  needs.optimizer = blocks.part() / division.replicas * (kMoments + (has_masters ? kFloat : 0));
  if (shape.teacher) needs.teacher = teacher_bytes(*shape.teacher, division);
  if (division.shards > 1) {
    needs.gathers = 2 * whole * width;
    // The sum, the received gradient, and a sent copy if its dtype differs.
    needs.reductions = whole * (kFloat + wire * (is_rounded ? 2 : 1));
    // Held from the head's backward to the end of the step.
    if (shape.model.head.tied)
      needs.reductions += division.shards * blocks.embedding_part() * kFloat;
  }
  if (division.replicas > 1)
    needs.reductions += blocks.largest_part() * wire * (is_rounded ? 2 : 1);
  needs.activations = activation_bytes(shape);
  const int64_t weights = n_parameters(shape.model) * width;
  needs.snapshot =
      needs.optimizer + at::ceil_div<int64_t>(weights, n_writers(weights, division.processes()));
  needs.sent_a_step = sent_a_step(shape, division, blocks);
  return needs;
}

int64_t largest_micro_batch(JobShape shape, const Division& division, int64_t device_bytes) {
  const auto fits = [&](int64_t micro_batch) {
    shape.micro_batch = micro_batch;
    return needs_of(shape, division).device() <= device_bytes;
  };
  if (!fits(1)) return 0;
  int64_t fitting = 1;
  while (fits(2 * fitting)) fitting *= 2;
  for (int64_t step = fitting / 2; step > 0; step /= 2) {
    if (fits(fitting + step)) fitting += step;
  }
  return fitting;
}

}  // namespace regroup
