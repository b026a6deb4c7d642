#include "models/flops.h"

#include <c10/util/accumulate.h>

namespace regroup {

double forward_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  double weights =
      static_cast<double>(config.vocab_size * config.d_model);  // the head, tied or not
  for (const auto& block : decoder_blocks(config)) {
    for (const auto& parameter : block.parameters) {
      const bool is_layer_matrix =
          parameter.shape.size() == 2 && parameter.name.starts_with("layers.");
      if (is_layer_matrix) weights += static_cast<double>(c10::multiply_integers(parameter.shape));
    }
  }
  const auto attention =
      static_cast<double>(2 * config.n_layer * config.n_head * config.head_dim * seq_len);
  return 2 * weights + attention;
}

double training_flops_per_token(const DecoderConfig& config, int64_t seq_len) {
  return 3 * forward_flops_per_token(config, seq_len);
}

}  // namespace regroup
