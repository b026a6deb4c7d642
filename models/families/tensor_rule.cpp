#include "models/families/tensor_rule.h"

#include <torch/types.h>

#include <algorithm>

namespace regroup {
namespace {

using torch::Tensor;

/// The rows that a parameter has.
int64_t rows_of(Role role, const DecoderConfig& config, std::optional<int64_t> layer) {
  const auto& of_layer = config.layer(layer.value());
  const auto& attention = of_layer.attention;
  switch (role) {
    case Role::kQuery:
      return attention.n_head * attention.head_dim;
    case Role::kKey:
    case Role::kValue:
      return attention.n_kv_head * attention.head_dim;
    case Role::kGate:
    case Role::kUp:
      return of_layer.mlp.d_ff;
    default:
      TORCH_CHECK(false, "not packed with others");
  }
}

bool rotates(Role role) { return role == Role::kQuery || role == Role::kKey; }

/// Rows of heads whose RoPE turns neighbouring dims -> whose RoPE turns halves, and back.
Tensor halves_from_pairs(const Tensor& rows, const AttentionConfig& attention) {
  const auto heads = rows.unflatten(0, {-1, attention.head_dim});
  const int64_t dims = attention.rotary_dims();
  const auto pairs = heads.narrow(1, 0, dims).unflatten(1, {dims / 2, 2}).transpose(1, 2);
  const auto still = heads.narrow(1, dims, attention.head_dim - dims);
  return torch::cat({pairs.flatten(1, 2), still}, 1).flatten(0, 1);
}

Tensor pairs_from_halves(const Tensor& rows, const AttentionConfig& attention) {
  const auto heads = rows.unflatten(0, {-1, attention.head_dim});
  const int64_t dims = attention.rotary_dims();
  const auto halves = heads.narrow(1, 0, dims).unflatten(1, {2, dims / 2}).transpose(1, 2);
  const auto still = heads.narrow(1, dims, attention.head_dim - dims);
  return torch::cat({halves.flatten(1, 2), still}, 1).flatten(0, 1);
}

/// [n_kv_head * (group_size + 2) * head_dim, ...] by K/V head.
Tensor by_group(const Tensor& stored, const AttentionConfig& attention) {
  return stored.unflatten(0, {attention.n_kv_head, attention.group_size() + 2, attention.head_dim});
}

Tensor from_groups(const Tensor& stored, const AttentionConfig& attention, Role role) {
  const int64_t queries = attention.group_size();
  const auto groups = by_group(stored, attention);
  const auto part = role == Role::kQuery
                        ? groups.narrow(1, 0, queries)
                        : groups.narrow(1, role == Role::kKey ? queries : queries + 1, 1);
  return part.flatten(0, 2);
}

Tensor into_groups(const std::vector<Tensor>& qkv, const AttentionConfig& attention) {
  std::vector<Tensor> parts;
  for (const auto& part : qkv)
    parts.push_back(part.unflatten(0, {attention.n_kv_head, -1, attention.head_dim}));
  return torch::cat(parts, 1).flatten(0, 2);
}

}  // namespace

bool TensorRule::holds(Role role) const {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

std::string TensorRule::tensor_name(const ParameterId& id, int64_t head) const {
  auto name = module;
  const auto fill = [&name](const std::string& mark, int64_t number) {
    name.replace(name.find(mark), mark.size(), std::to_string(number));
  };
  if (id.layer) fill("{}", *id.layer);
  if (by_head) fill("{head}", head);
  return name + (id.is_bias ? ".bias" : ".weight");
}

Tensor TensorRule::unpacked(const Tensor& stored, const DecoderConfig& config,
                            const ParameterId& id) const {
  auto rows = transposed && !id.is_bias ? stored.t() : stored;
  if (packing == Packing::kByGroup) {
    rows = from_groups(rows, config.layer(*id.layer).attention, id.role);
  } else if (roles.size() > 1) {
    int64_t first = 0;
    for (const Role role : roles) {
      const int64_t count = rows_of(role, config, id.layer);
      if (role == id.role) {
        rows = rows.narrow(0, first, count);
        break;
      }
      first += count;
    }
  }
  return interleaved_rotary && rotates(id.role)
             ? halves_from_pairs(rows, config.layer(*id.layer).attention)
             : rows;
}

Tensor TensorRule::packed(const std::vector<Tensor>& parameters, const DecoderConfig& config,
                          const ParameterId& first) const {
  std::vector<Tensor> parts;
  for (size_t i = 0; i < parameters.size(); ++i) {
    parts.push_back(interleaved_rotary && rotates(roles[i])
                        ? pairs_from_halves(parameters[i], config.layer(*first.layer).attention)
                        : parameters[i]);
  }
  auto rows = parts.front();
  if (packing == Packing::kByGroup) {
    rows = into_groups(parts, config.layer(*first.layer).attention);
  } else if (parts.size() > 1) {
    rows = torch::cat(parts);
  }
  return transposed && !first.is_bias ? rows.t() : rows;
}

std::vector<int64_t> TensorRule::packed_shape(
    const std::vector<std::vector<int64_t>>& shapes) const {
  auto shape = shapes.front();
  for (size_t i = 1; i < shapes.size(); ++i) shape[0] += shapes[i][0];
  if (transposed && shape.size() == 2) std::swap(shape[0], shape[1]);
  return shape;
}

}  // namespace regroup
