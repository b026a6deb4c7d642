// framework/flat_parameters.h: the parameters of one block of a model in one flat tensor. Modules
// receive views; gradients sum up in one flat float32 buffer; an optimizer, a file or a
// communication sees one array a block.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace regroup {

/// One named tensor. The name is unique in the model ("layers.3.attention.q_proj.weight").
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  double init_std;    // standard deviation of the normal initialisation; 0: all ones (norm gains)
  bool weight_decay;  // matrices yes, norm gains no
};

/// What a module computes with: the next n_parameters parameters one below the other as one matrix
/// (the q, k and v projections are one GEMM), or a single parameter. Parameters of one operand
/// agree in all axes but the first.
struct OperandSpec {
  int64_t n_parameters;
};

/// The tensors are handles: a copy shares values and gradients with what it was copied from.
class FlatParameters {
 public:
  /// Parameters lie in the order given, their values yet to be written. Throws c10::Error unless
  /// the operands, in order, take up every parameter once.
  FlatParameters(const std::vector<ParameterSpec>& parameters,
                 const std::vector<OperandSpec>& operands, torch::TensorOptions options);

  /// Views for computing, one an OperandSpec: [sum of first axes, other axes]. Where there is a
  /// gradient buffer and autograd is on, their gradients are added to gradient(); nothing reaches
  /// the flat tensor's own grad.
  std::vector<torch::Tensor> gather() const;

  const std::vector<ParameterSpec>& parameters() const { return parameters_; }
  /// Offset of a parameter's first element in flat().
  int64_t offset(size_t index) const { return offsets_.at(index); }
  int64_t numel() const { return flat_.numel(); }

  /// The values, without a graph: [numel].
  torch::Tensor flat() const { return flat_.detach(); }
  /// A parameter's values as a view of its shape, without a graph. Throws std::out_of_range.
  torch::Tensor parameter(size_t index) const;

  /// Makes the gradient buffer, of zeros; without it the parameters are frozen and gather() builds
  /// no graph.
  void enable_gradient();
  bool has_gradient() const { return gradient_.defined(); }
  /// [numel], float32 (float64 for float64): the sum of the gradients since zero_gradient().
  /// Undefined without a buffer.
  const torch::Tensor& gradient() const { return gradient_; }
  void zero_gradient() { gradient_.zero_(); }

 private:
  std::vector<ParameterSpec> parameters_;
  std::vector<int64_t> offsets_;
  std::vector<std::vector<int64_t>> operand_shapes_;
  std::vector<int64_t> operand_offsets_;
  torch::Tensor flat_, gradient_;
};

/// Fills the parameters with their initialisation; each from its own generator, seeded by seed and
/// name alone.
void initialize(FlatParameters& block, uint64_t seed);

}  // namespace regroup
