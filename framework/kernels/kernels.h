// framework/kernels/kernels.h: the memory-bound arithmetic of a training step, fused. Each function
// runs a vectorised loop on the CPU (float32, bfloat16, float64) and an ATen formula on other
// devices. N is a number of rows (batch times positions); sums are held in float32 (float64 for
// float64). None of them builds a graph. Tensors are contiguous, on one device and, where nothing
// else is said, of one dtype; what differs in dtype, shape or layout is refused with c10::Error.
#pragma once

#include <torch/types.h>

namespace regroup::kernels {

/// Root-mean-square norm (Zhang and Sennrich 2019): h = x / sqrt(mean(x^2) + eps) * weight.
/// x: [N, d], weight: [d] -> normed: [N, d] as x, inverse_rms: [N] float32 (float64 for float64).
struct RmsNorm {
  torch::Tensor normed, inverse_rms;
};
RmsNorm rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

/// Gradients of rms_norm, with the inverse_rms that it gave. grad_normed: [N, d] is consumed: the
/// normed rows, computed anew, are left in it. -> grad_x: [N, d] as x, grad_weight: [d] as weight.
struct RmsNormGradients {
  torch::Tensor grad_x, grad_weight;
};
RmsNormGradients rms_norm_backward(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& inverse_rms, torch::Tensor& grad_normed);

/// SwiGLU (Shazeer 2020, "GLU variants"): silu(gate) * up. gate_up: [N, 2 * d_ff], gate first ->
/// [N, d_ff].
torch::Tensor swiglu(const torch::Tensor& gate_up);

/// Gradient of swiglu -> [N, 2 * d_ff]. grad: [N, d_ff] is consumed: swiglu(gate_up) is left in it.
torch::Tensor swiglu_backward(const torch::Tensor& gate_up, torch::Tensor& grad);

/// Softmax cross-entropy of rows of logits. logits: [N, vocab_size] is consumed: where
/// gradient_scale is not 0, the gradient of gradient_scale * sum(loss) is left in it. targets: [N]
/// int64, below vocab_size; negative targets are ignored. -> loss: [N] float32 (float64 for
/// float64), 0 where ignored.
torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& targets,
                             double gradient_scale);

/// Knowledge distillation (Hinton et al. 2015).
struct Distillation {
  double weight = 0;       // of the teacher; 1 - weight is the text's
  double temperature = 1;  // above 0
};
/// (1 - weight) * cross-entropy + weight * T² * KL(softmax(teacher / T) || softmax(logits / T)) of
/// rows. teacher_logits: as logits; the rest as in cross_entropy_, which weight 0 is.
torch::Tensor distillation_(torch::Tensor& logits, const torch::Tensor& teacher_logits,
                            const torch::Tensor& targets, const Distillation& distillation,
                            double gradient_scale);

/// sum += x in sum's precision. sum: float32, x: same shape, float32 or bfloat16; or both float64.
/// Either may be strided.
void accumulate_(const torch::Tensor& sum, const torch::Tensor& x);

/// Sum of squares of a flat float32 tensor, in float64, on the CPU in an order that does not depend
/// on the threads.
double sum_of_squares(const torch::Tensor& x);

/// One AdamW step's numbers (Loshchilov and Hutter 2019, algorithm 2).
struct AdamWStep {
  double lr, beta1, beta2, eps, weight_decay;
  double gradient_scale;  // multiplies the gradient first: clipping
  int64_t step;           // counted from 1, for the bias corrections
};
/// Updates flat float32 parameters in place from float32 gradients and moments, all [n]; copy,
/// where defined, is the bfloat16 copy of the parameters that the model computes with, and is
/// written.
void adamw_(const torch::Tensor& parameters, const torch::Tensor& gradient,
            const torch::Tensor& first_moment, const torch::Tensor& second_moment,
            const torch::Tensor& copy, const AdamWStep& step);

}  // namespace regroup::kernels
