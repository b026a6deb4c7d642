// framework/kernels/kernels.h: the memory-bound arithmetic of training and decoding, fused. Each
// function checks its operands and calls the implementation for their device (kernel_table.h):
// vectorised loops on the CPU (float32, bfloat16, float64), ATen formulas elsewhere.
//
// N is a number of rows (batch times positions). Sums are held in float32 (float64 for float64). No
// function builds a graph. Unless a function says otherwise, tensors are contiguous, on one device
// and of one dtype; another dtype, shape or layout is refused with c10::Error.
#pragma once

#include <torch/types.h>

#include "framework/kernels/activation.h"
#include "framework/kernels/score_rule.h"

namespace regroup::kernels {

/// Root-mean-square norm (Zhang and Sennrich 2019): h = x / sqrt(mean(x^2) + eps) * weight.
/// x: [N, d], weight: [d] -> normed: [N, d] as x, inverse_rms: [N] float32 (float64 for float64).
struct RmsNorm {
  torch::Tensor normed, inverse_rms;
};
RmsNorm rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

/// Gradients of rms_norm. inverse_rms: the result of the forward pass. grad_normed: [N, d] is
/// overwritten with the recomputed normed rows. -> grad_x: [N, d] as x, grad_weight: [d] as weight.
struct RmsNormGradients {
  torch::Tensor grad_x, grad_weight;
};
RmsNormGradients rms_norm_backward(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& inverse_rms, torch::Tensor& grad_normed);

/// An MLP's activation. x: [N, d], or gated [N, 2 * d], gate first -> [N, d].
torch::Tensor activation(const torch::Tensor& x, const Activation& activation);

/// Gradient of activation -> as x. grad: [N, d] is overwritten with activation(x).
torch::Tensor activation_backward(const torch::Tensor& x, const Activation& activation,
                                  torch::Tensor& grad);

/// Softmax cross-entropy of rows of logits. Where gradient_scale is not 0, logits, [N,
/// vocab_size], are overwritten with the gradient of gradient_scale * sum(loss). targets: [N]
/// int64, below vocab_size; negative targets are ignored. -> loss: [N] float32 (float64 for
/// float64), 0 where ignored.
torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& targets,
                             double gradient_scale);

/// Knowledge distillation (Hinton et al. 2015).
struct Distillation {
  double weight = 0;       // of the teacher's predictions; the text's targets have 1 - weight
  double temperature = 1;  // above 0
};
/// (1 - weight) * cross-entropy + weight * T² * KL(softmax(teacher / T) || softmax(logits / T)) of
/// rows. teacher_logits: as logits; the other arguments as in cross_entropy_, which equals weight
/// 0.
torch::Tensor distillation_(torch::Tensor& logits, const torch::Tensor& teacher_logits,
                            const torch::Tensor& targets, const Distillation& distillation,
                            double gradient_scale);

/// sum += x in sum's precision. sum: float32, x: same shape, float32 or bfloat16; or both float64.
/// Either may be strided.
void accumulate_(const torch::Tensor& sum, const torch::Tensor& x);

/// Sum of squares of a flat float32 tensor, in float64. On the CPU the order of the sum does not
/// depend on the number of threads.
double sum_of_squares(const torch::Tensor& x);

/// One AdamW step's numbers (Loshchilov and Hutter 2019, algorithm 2).
struct AdamWStep {
  double lr, beta1, beta2, eps, weight_decay;
  double gradient_scale;  // multiplies the gradient first: clipping
  int64_t step;           // counted from 1, for the bias corrections
};
/// Updates flat float32 parameters in place from float32 gradients and moments, all [n]. Where copy
/// is defined, it receives the parameters rounded to bfloat16, with which the model computes.
void adamw_(const torch::Tensor& parameters, const torch::Tensor& gradient,
            const torch::Tensor& first_moment, const torch::Tensor& second_moment,
            const torch::Tensor& copy, const AdamWStep& step);

/// Rotates heads in place (Su et al. 2021, eq. 34), half-rotation layout: dims i and i + R/2 of
/// each head's first R dims turn by the position's angle i. heads: [B, T, n_head, head_dim],
/// strided, rows of head_dim contiguous. cos, sin: [T, R/2] float32 (float64 for float64).
/// direction: 1 rotates, -1 rotates back.
void rotate_(const torch::Tensor& heads, const torch::Tensor& cos, const torch::Tensor& sin,
             int direction);

/// Causal attention of B sequences from position 0 (Vaswani et al. 2017, eq. 1; no matrix of all
/// scores is held on the CPU: Dao et al. 2022). heads: [B, T, n_head + 2 n_kv_head, head_dim], the
/// query heads, then the key heads, then the value heads; query head i reads K/V head i / (n_head /
/// n_kv_head). -> outputs: [B, T, n_head * head_dim]; log_sums, which backward needs: [B, n_head,
/// T] float32, the logs of the softmax's denominators, or undefined.
struct Attention {
  torch::Tensor outputs, log_sums;
};
Attention attention(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule);

/// The gradient of attention(): that of heads, as heads. forward: the result for the same heads.
/// grad_outputs: as forward.outputs.
torch::Tensor attention_backward(const torch::Tensor& heads, int64_t n_head, const ScoreRule& rule,
                                 const Attention& forward, const torch::Tensor& grad_outputs);

/// Attention of a few new positions over a K/V cache; its time is that of reading the cache once.
/// queries: [B, T, n_head, head_dim], strided, at positions past .. past + T - 1. keys, values: [B,
/// n_kv_head, capacity, head_dim], which already hold those of the new positions; n_head is a
/// multiple of n_kv_head. -> [B, T, n_head * head_dim].
torch::Tensor decode_attention(const torch::Tensor& queries, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t past, const ScoreRule& rule);

}  // namespace regroup::kernels
