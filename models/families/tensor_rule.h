// models/families/tensor_rule.h: how a family's files hold the decoder's parameters, read in both
// directions.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/config/decoder_config.h"
#include "models/config/decoder_parameters.h"

namespace regroup {

/// The tensors of one module of a family: its weight, and its bias where it has one. Several
/// parameters are packed along the first axis.
struct TensorRule {
  enum class Packing {
    kInOrder,  // one after the other
    kByGroup,  // for each K/V head: its query heads, the key head, the value head
  };

  std::vector<Role> roles;  // of the parameters in it, in order
  std::string module;  // "model.layers.{}.self_attn.q_proj"; "{}" stands for the layer's number
  Packing packing = Packing::kInOrder;
  bool transposed = false;  // the weight is [d_in, d_out]
  bool interleaved_rotary =
      false;             // RoPE turns dims 2i and 2i + 1 together, not i and i + dims / 2
  bool by_head = false;  // a tensor for each head, whose number stands for "{head}"
  bool (*applies)(const DecoderConfig& config) = nullptr;  // null: to every model of the family

  bool holds(Role role) const;
  /// The file's tensor for a parameter that it holds. head: with by_head.
  std::string tensor_name(const ParameterId& id, int64_t head = 0) const;
  /// A parameter out of the file's tensor; a view where the layout allows one.
  torch::Tensor unpacked(const torch::Tensor& stored, const DecoderConfig& config,
                         const ParameterId& id) const;
  /// The inverse: the file's tensor of parameters in the order of roles.
  torch::Tensor packed(const std::vector<torch::Tensor>& parameters, const DecoderConfig& config,
                       const ParameterId& first) const;
  /// The shape of packed() for parameters of these shapes.
  std::vector<int64_t> packed_shape(const std::vector<std::vector<int64_t>>& shapes) const;
};

}  // namespace regroup
