#include "framework/kernels/bfloat16.h"

#include <ATen/cpu/Utils.h>
#include <torch/types.h>

namespace regroup {

bool cpu_multiplies_bfloat16() {
#if defined(__x86_64__)
  static const bool supported = __builtin_cpu_supports("avx512bf16");
  return supported;
#else
  return true;
#endif
}

bool cpu_multiplies_bfloat16_tiles() {
  static const bool supported = at::cpu::init_amx();
  return supported;
}

bool multiplies_widened(const torch::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == torch::kBFloat16 && !cpu_multiplies_bfloat16();
}

}  // namespace regroup
