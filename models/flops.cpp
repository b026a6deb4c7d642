#include "models/flops.h"

#include <c10/util/accumulate.h>

#include "models/config/decoder_parameters.h"

namespace regroup {

namespace {

bool is_projection(Role role) {
  return role == Role::kQuery || role == Role::kKey || role == Role::kValue ||
         role == Role::kOutput;
}

/// Numbers of the layers' matrices that count.
template <typename Counts>
double matrix_weights(const DecoderConfig& config, const Counts& counts) {
  double weights = 0;
  for (const auto& block : decoder_blocks(config)) {
    for (const auto& [id, spec] : block.parameters) {
      if (id.layer && spec.shape.size() == 2 && counts(id.role))
        weights += static_cast<double>(c10::multiply_integers(spec.shape));
    }
  }
  return weights;
}

double scores_and_sums(const DecoderConfig& config, int64_t seq_len) {
  double flops = 0;
  for (const auto& layer : config.layers)
    flops += static_cast<double>(2 * layer.attention.n_head * layer.attention.head_dim * seq_len);
  return flops;
}

}  // namespace

double attention_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  return 2 * matrix_weights(config, is_projection) + scores_and_sums(config, seq_len);
}

double forward_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  const auto head = static_cast<double>(config.vocab_size * config.d_model);  // tied or not
  return 2 * (head + matrix_weights(config, [](Role) { return true; })) +
         scores_and_sums(config, seq_len);
}

double training_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  return 3 * forward_flops_per_token(config, seq_len);
}

}  // namespace regroup
