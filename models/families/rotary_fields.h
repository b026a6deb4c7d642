// models/families/rotary_fields.h: rotary position embedding in config.json, in both dialects.
#pragma once

#include <torch/types.h>

#include <string>

#include "models/families/config_fields.h"

namespace regroup {

/// How an architecture spells RoPE.
struct RotaryKeys {
  bool is_partial = false;  // the class may rotate a share of a head's dims
  double share = 1;         // where a file lacks the key
  std::string share_key = "partial_rotary_factor";
  std::string theta_key = "rope_theta";
  // In rope_scaling LongRoPE has its lists only, as Phi-3's class in transformers 4 demands.
  bool bare_longrope = false;
  std::vector<std::string> longrope_types = {"longrope", "su"};  // "su": of early files
};

/// Base, share and scaling stand beside or in an object: rope_scaling in files of transformers 4,
/// rope_parameters in those of transformers 5. What a file says twice must agree; both are written.
void rotary_fields(ConfigFields& fields, int64_t max_seq_len, AttentionConfig& attention,
                   const RotaryKeys& keys = {});

/// True for the frequencies of the config's RoPE, rounded to the dtype of stored: [dims / 2]; also
/// for those before a linear scaling, which transformers used to apply to the positions instead.
bool are_rope_frequencies(const DecoderConfig& config, const torch::Tensor& stored);

}  // namespace regroup
