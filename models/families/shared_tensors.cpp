#include "models/families/shared_tensors.h"

#include <algorithm>

#include "models/families/rotary_fields.h"

namespace regroup {

std::vector<TensorRule> llama_tensors(const std::vector<TensorRule>& own) {
  const std::vector<TensorRule> llama{
      {{Role::kEmbedding}, "model.embed_tokens"},
      {{Role::kAttentionIn}, "model.layers.{}.input_layernorm"},
      {{Role::kQuery}, "model.layers.{}.self_attn.q_proj"},
      {{Role::kKey}, "model.layers.{}.self_attn.k_proj"},
      {{Role::kValue}, "model.layers.{}.self_attn.v_proj"},
      {{Role::kOutput}, "model.layers.{}.self_attn.o_proj"},
      {{Role::kMlpIn}, "model.layers.{}.post_attention_layernorm"},
      {{Role::kGate}, "model.layers.{}.mlp.gate_proj"},
      {{Role::kUp}, "model.layers.{}.mlp.up_proj"},
      {{Role::kDown}, "model.layers.{}.mlp.down_proj"},
      {{Role::kFinalNorm}, "model.norm"},
      {{Role::kHead}, "lm_head"},
  };
  auto tensors = own;
  for (const auto& rule : llama) {
    const auto holds_same = [&](const TensorRule& other) {
      return other.holds(rule.roles.front());
    };
    if (std::none_of(own.begin(), own.end(), holds_same)) tensors.push_back(rule);
  }
  return tensors;
}

std::vector<StoredBuffer> rotary_buffers() {
  return {{"model.layers.{}.self_attn.rotary_emb.inv_freq", are_rope_frequencies},
          {"model.rotary_emb.inv_freq", are_rope_frequencies}};
}

}  // namespace regroup
