// framework/tensors/dtype.h: the table of element types: torch dtype, safetensors tag, and names in
// configs and on screen.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <string_view>

namespace regroup {

/// One row of the table. Every name is unique within its column.
struct Dtype {
  c10::ScalarType type;
  std::string_view safetensors_tag;  // "BF16"
  std::string_view hf_name;          // "bfloat16", as in Hugging Face's config.json
  std::string_view short_name;       // "bf16", as in Regroup's options and tables
};

/// The row of a torch dtype. Throws Error for a dtype that the table does not have.
const Dtype& dtype_info(c10::ScalarType type);

/// The torch dtype of a safetensors tag such as "BF16"; nullopt when the tag is unknown.
std::optional<c10::ScalarType> dtype_from_safetensors(std::string_view tag);

/// The torch dtype of a name: "bf16", "bfloat16" or "torch.bfloat16"; nullopt when it is unknown.
std::optional<c10::ScalarType> dtype_from_name(std::string_view name);

/// All safetensors tags of the table, for messages: "BOOL, U8, ...".
std::string known_safetensors_tags();

}  // namespace regroup
