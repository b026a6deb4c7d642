#include "framework/tensors/dtype.h"

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("each dtype is found by each of its names", "[dtype]") {
  const auto type = GENERATE(at::kBool, at::kByte, at::kChar, at::kUInt16, at::kShort, at::kUInt32,
                             at::kInt, at::kUInt64, at::kLong, at::kHalf, at::kBFloat16, at::kFloat,
                             at::kDouble, at::kFloat8_e4m3fn, at::kFloat8_e5m2);
  const auto& info = dtype_info(type);
  CHECK(dtype_from_safetensors(info.safetensors_tag) == type);
  CHECK(dtype_from_name(info.hf_name) == type);
  CHECK(dtype_from_name(info.short_name) == type);
}

TEST_CASE("dtype names are those of safetensors and Hugging Face", "[dtype]") {
  CHECK(dtype_from_safetensors("BF16") == at::kBFloat16);
  CHECK(dtype_from_name("bfloat16") == at::kBFloat16);
  CHECK(dtype_from_name("torch.float16") == at::kHalf);
  CHECK(dtype_from_name("fp32") == at::kFloat);
  CHECK_FALSE(dtype_from_name("bf61").has_value());
  CHECK_FALSE(dtype_from_safetensors("bf16").has_value());
  CHECK_THAT(known_safetensors_tags(), Contains("BOOL, U8") && Contains("F64"));
}

TEST_CASE("a dtype that files cannot hold is an error", "[dtype]") {
  CHECK_THROWS_WITH(dtype_info(at::kComplexFloat), Contains("ComplexFloat"));
}

}  // namespace
}  // namespace regroup
