// framework/tensors/dtype.h: one table of element types: torch dtype, safetensors tag, names in
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
  std::string_view short_name;       // "bf16", as in our options and tables
};

/// The row of a torch dtype. Throws Error for a dtype that no file of ours can hold.
const Dtype& dtype_info(c10::ScalarType type);

/// The torch dtype of a safetensors tag such as "BF16"; nothing when the tag is unknown.
std::optional<c10::ScalarType> dtype_from_safetensors(std::string_view tag);

/// The torch dtype of a name in either spelling ("bf16" or "bfloat16", "torch.bfloat16" too);
/// nothing when the name is unknown.
std::optional<c10::ScalarType> dtype_from_name(std::string_view name);

/// The safetensors tags that we read, for messages: "BOOL, U8, ...".
std::string known_safetensors_tags();

}  // namespace regroup
