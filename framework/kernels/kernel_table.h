// framework/kernels/kernel_table.h: the implementations of kernels.h, one table per device.
#pragma once

#include <torch/types.h>

#include "framework/kernels/kernels.h"

namespace regroup::kernels {

/// One device's implementations. Each has the signature and the contract of the function of its
/// name in kernels.h, which checks the operands before it calls the implementation.
struct KernelTable {
  decltype(&kernels::rms_norm) rms_norm;
  decltype(&kernels::rms_norm_backward) rms_norm_backward;
  decltype(&kernels::activation) activation;
  decltype(&kernels::activation_backward) activation_backward;
  decltype(&kernels::cross_entropy_) cross_entropy_;
  decltype(&kernels::distillation_) distillation_;
  decltype(&kernels::accumulate_) accumulate_;
  decltype(&kernels::sum_of_squares) sum_of_squares;
  decltype(&kernels::adamw_) adamw_;
  decltype(&kernels::rotate_) rotate_;
  decltype(&kernels::attention) attention;
  decltype(&kernels::attention_backward) attention_backward;
  decltype(&kernels::decode_attention) decode_attention;
};

/// The table for tensors on this type of device.
const KernelTable& kernels_of(c10::DeviceType device);

namespace cpu {
/// Vectorised loops: framework/kernels/cpu/.
const KernelTable& table();
}  // namespace cpu

namespace formulas {
/// ATen expressions that run on any device; the CPU loops are tested against them.
const KernelTable& table();
}  // namespace formulas

}  // namespace regroup::kernels
