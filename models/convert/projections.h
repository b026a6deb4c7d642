// models/convert/projections.h: what of a layer travels with its heads, taken out of a model's
// parameters and put back.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "models/config/decoder_parameters.h"
#include "models/model_folder.h"

namespace regroup {

/// The projections of one attention layer. q_proj: [n_head * head_dim, d], k_proj, v_proj:
/// [n_kv_head * head_dim, d], o_proj: [d_model, n_head * head_dim]; d is d_model, or d_model + 1
/// where the last column is a bias.
struct LayerProjections {
  AttentionConfig shape;
  int64_t rotary_dim;  // dims of a head that RoPE turns; even
  torch::Tensor q_proj, k_proj, v_proj, o_proj;
  // Gains of norms that differ by head: [n_head, head_dim] and [n_kv_head, head_dim], or undefined.
  torch::Tensor q_norm = {}, k_norm = {};
};

/// The projections of a layer. Throws Error where one holds numbers that are not finite.
LayerProjections layer_projections(const ModelFolder& source, int64_t layer);

/// True for the parameters of layers that LayerProjections holds.
bool is_projection(const ParameterId& id, const AttentionConfig& attention);
/// The values of such a parameter, in its shape.
torch::Tensor projection_values(const LayerProjections& layer, const ParameterId& id);
/// Replaces them, rounded to the dtype that they have.
void set_projection_values(LayerProjections& layer, const ParameterId& id,
                           const torch::Tensor& values);

}  // namespace regroup
