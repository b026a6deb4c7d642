#include "framework/tensors/dtype.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>

#include "framework/errors/error.h"

namespace regroup {
namespace {

using c10::ScalarType;

constexpr std::array kDtypes = {
    Dtype{ScalarType::Bool, "BOOL", "bool", "bool"},
    Dtype{ScalarType::Byte, "U8", "uint8", "u8"},
    Dtype{ScalarType::Char, "I8", "int8", "i8"},
    Dtype{ScalarType::UInt16, "U16", "uint16", "u16"},
    Dtype{ScalarType::Short, "I16", "int16", "i16"},
    Dtype{ScalarType::UInt32, "U32", "uint32", "u32"},
    Dtype{ScalarType::Int, "I32", "int32", "i32"},
    Dtype{ScalarType::UInt64, "U64", "uint64", "u64"},
    Dtype{ScalarType::Long, "I64", "int64", "i64"},
    Dtype{ScalarType::Float8_e5m2, "F8_E5M2", "float8_e5m2", "fp8_e5m2"},
    Dtype{ScalarType::Float8_e4m3fn, "F8_E4M3", "float8_e4m3fn", "fp8_e4m3"},
    Dtype{ScalarType::Half, "F16", "float16", "fp16"},
    Dtype{ScalarType::BFloat16, "BF16", "bfloat16", "bf16"},
    Dtype{ScalarType::Float, "F32", "float32", "fp32"},
    Dtype{ScalarType::Double, "F64", "float64", "fp64"},
};

template <typename Matches>
const Dtype* find_row(Matches matches) {
  const auto row = std::find_if(kDtypes.begin(), kDtypes.end(), matches);
  return row == kDtypes.end() ? nullptr : &*row;
}

std::optional<ScalarType> type_of(const Dtype* row) {
  return row ? std::optional(row->type) : std::nullopt;
}

}  // namespace

const Dtype& dtype_info(ScalarType type) {
  if (const auto* row = find_row([&](const Dtype& d) { return d.type == type; })) return *row;
  throw Error(c10::str("dtype ", type), "no file format of ours holds it",
              "Convert the tensor to float32, bfloat16 or float16.");
}

std::optional<ScalarType> dtype_from_safetensors(std::string_view tag) {
  return type_of(find_row([&](const Dtype& d) { return d.safetensors_tag == tag; }));
}

std::optional<ScalarType> dtype_from_name(std::string_view name) {
  constexpr std::string_view kTorchPrefix = "torch.";
  if (name.starts_with(kTorchPrefix)) name.remove_prefix(kTorchPrefix.size());
  return type_of(
      find_row([&](const Dtype& d) { return d.hf_name == name || d.short_name == name; }));
}

std::string known_safetensors_tags() {
  std::string tags;
  for (const auto& d : kDtypes) tags += (tags.empty() ? "" : ", ") + std::string(d.safetensors_tag);
  return tags;
}

}  // namespace regroup
