// framework/kernels/bfloat16.h: whether a device multiplies bfloat16 matrices itself.
#pragma once

#include <torch/types.h>

namespace regroup {

/// True where the CPU multiplies bfloat16 matrices in hardware (AVX-512 BF16 or AMX).
bool cpu_multiplies_bfloat16();

/// True where it does that in tiles (AMX), many times faster than in vectors.
bool cpu_multiplies_bfloat16_tiles();

/// True where products of tensors of this device and dtype are computed in float32: bfloat16 on a
/// CPU that does not multiply it in hardware.
bool multiplies_widened(const torch::Tensor& x);

}  // namespace regroup
