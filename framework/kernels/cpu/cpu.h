// framework/kernels/cpu/cpu.h: the CPU's implementations of the functions in kernels.h.
#pragma once

#include "framework/kernels/kernels.h"

// Nested, so that an implementation hides the public function of its name.
namespace regroup::kernels::cpu {

decltype(kernels::rms_norm) rms_norm;
decltype(kernels::rms_norm_backward) rms_norm_backward;
decltype(kernels::activation) activation;
decltype(kernels::activation_backward) activation_backward;
decltype(kernels::cross_entropy_) cross_entropy_;
decltype(kernels::distillation_) distillation_;
decltype(kernels::accumulate_) accumulate_;
decltype(kernels::sum_of_squares) sum_of_squares;
decltype(kernels::adamw_) adamw_;
decltype(kernels::rotate_) rotate_;
decltype(kernels::attention) attention;
decltype(kernels::attention_backward) attention_backward;
decltype(kernels::decode_attention) decode_attention;

}  // namespace regroup::kernels::cpu
