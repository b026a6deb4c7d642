#include "models/flops.h"

#include <c10/util/accumulate.h>

#include <string>

namespace regroup {

namespace {

/// Of the layers' matrices that have this in their names.
double matrix_weights(const DecoderConfig& config, const char* named) {
  double weights = 0;
  for (const auto& block : decoder_blocks(config)) {
    for (const auto& [name, shape, init_std, weight_decay] : block.parameters) {
      const bool counts = shape.size() == 2 && name.find(named) != std::string::npos;
      if (counts) weights += static_cast<double>(c10::multiply_integers(shape));
    }
  }
  return weights;
}

double scores_and_sums(const DecoderConfig& config, int64_t seq_len) {
  return static_cast<double>(2 * config.n_layer * config.n_head * config.head_dim * seq_len);
}

}  // namespace

double attention_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  return 2 * matrix_weights(config, ".attention.") + scores_and_sums(config, seq_len);
}

double forward_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  const auto head = static_cast<double>(config.vocab_size * config.d_model);  // tied or not
  return 2 * (head + matrix_weights(config, "layers.")) + scores_and_sums(config, seq_len);
}

double training_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  return 3 * forward_flops_per_token(config, seq_len);
}

}  // namespace regroup
