// framework/kernels/formulas.h: the kernels' formulas in ATen: what other devices than the CPU run.
#pragma once

#include "framework/kernels/kernels.h"

namespace regroup::kernels::formulas {

RmsNorm rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);
RmsNormGradients rms_norm_backward(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& inverse_rms, torch::Tensor& grad_normed);
torch::Tensor swiglu(const torch::Tensor& gate_up);
torch::Tensor swiglu_backward(const torch::Tensor& gate_up, torch::Tensor& grad);
torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& targets,
                             double gradient_scale);
torch::Tensor distillation_(torch::Tensor& logits, const torch::Tensor& teacher_logits,
                            const torch::Tensor& targets, const Distillation& distillation,
                            double gradient_scale);
void adamw_(const torch::Tensor& parameters, const torch::Tensor& gradient,
            const torch::Tensor& first_moment, const torch::Tensor& second_moment,
            const torch::Tensor& copy, const AdamWStep& step);

}  // namespace regroup::kernels::formulas
