#include "framework/kernels/cpu/cpu.h"
#include "framework/kernels/kernel_table.h"

namespace regroup::kernels::cpu {

const KernelTable& table() {
  static constexpr KernelTable kTable{
      .rms_norm = rms_norm,
      .rms_norm_backward = rms_norm_backward,
      .activation = activation,
      .activation_backward = activation_backward,
      .cross_entropy_ = cross_entropy_,
      .distillation_ = distillation_,
      .accumulate_ = accumulate_,
      .sum_of_squares = sum_of_squares,
      .adamw_ = adamw_,
      .rotate_ = rotate_,
      .attention = attention,
      .attention_backward = attention_backward,
      .decode_attention = decode_attention,
  };
  return kTable;
}

}  // namespace regroup::kernels::cpu
