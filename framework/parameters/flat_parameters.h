// framework/parameters/flat_parameters.h: the parameters of one block of a model in one flat
// tensor. Modules receive views; gradients sum up in one flat float32 buffer; an optimizer, a file
// or a communication sees one array a block. Several processes may divide it
// (distributed/sharing.h).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "framework/distributed/sharing.h"

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
  /// Parameters lie in the order given, their values yet to be written. With a sharing this process
  /// holds its part of them. Throws c10::Error unless the operands, in order, take up every
  /// parameter once.
  FlatParameters(const std::vector<ParameterSpec>& parameters,
                 const std::vector<OperandSpec>& operands, torch::TensorOptions options,
                 std::shared_ptr<Sharing> sharing = nullptr);

  /// Views for computing, one an OperandSpec: [sum of first axes, other axes]. Where there is a
  /// gradient buffer and autograd is on, their gradients are added to gradient(), summed over the
  /// processes as the sharing says. With several shards all processes call it alike.
  std::vector<torch::Tensor> gather() const;

  const std::vector<ParameterSpec>& parameters() const { return parameters_; }
  /// Offset of a parameter's first element in the block.
  int64_t offset(size_t index) const { return offsets_.at(index); }
  int64_t numel() const { return numel_; }

  torch::ScalarType dtype() const;
  /// The elements that this process holds: all of them, but for a sharing with several shards.
  Range held() const;
  /// Those of them that this process is to update: all, but for replicas, which divide them.
  Range own() const;
  /// Their values, without a graph: [own().size()].
  torch::Tensor own_values() const;
  /// Own values were updated: others who hold them receive them before they use them next. All
  /// processes call it alike.
  void publish();
  /// Writes a parameter's values as far as this process holds them. values: of its shape.
  void assign(size_t index, const torch::Tensor& values);
  /// All values, without a graph: [numel]. With several shards all processes call it alike.
  torch::Tensor flat() const;
  /// A parameter's values as a view of its shape, without a graph. Throws std::out_of_range, and
  /// c10::Error where this process does not hold them all.
  torch::Tensor parameter(size_t index) const;

  /// Makes the gradient buffer, of zeros; without it the parameters are frozen and gather() builds
  /// no graph.
  void enable_gradient();
  bool has_gradient() const;
  /// [own().size()], float32 (float64 for float64): the sum of the gradients since zero_gradient(),
  /// of all processes when the sharing is finished. Undefined without a buffer.
  torch::Tensor gradient() const;
  void zero_gradient();

 private:
  struct Storage;
  struct Gather;
  torch::Tensor whole() const;
  torch::Tensor of_own(const torch::Tensor& part) const;

  std::vector<ParameterSpec> parameters_;
  std::vector<int64_t> offsets_;
  std::vector<std::vector<int64_t>> operand_shapes_;
  std::vector<int64_t> operand_offsets_;
  int64_t numel_ = 0;
  std::shared_ptr<Storage> storage_;
};

/// Fills the parameters with their initialisation; each from its own generator, seeded by seed and
/// name alone.
void initialize(FlatParameters& block, uint64_t seed);

}  // namespace regroup
