// framework/parameters/flat_parameters.h: the parameters of one block of a model in one flat
// tensor. Modules receive views of it, gradients are summed in one flat float32 buffer, and an
// optimizer, a file or a collective sees one array per block. Several processes may divide it
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
  double init_std;        // standard deviation of the normal initialisation; 0: all are init_value
  bool weight_decay;      // matrices yes, norm gains and biases no
  double init_value = 1;  // of norm gains; biases have 0
};

/// An operand of a module: the next n_parameters parameters, stacked along the first axis (the q, k
/// and v projections are one GEMM). Parameters of one operand must agree in all other axes.
struct OperandSpec {
  int64_t n_parameters;
};

/// A handle: copies share values and gradients.
class FlatParameters {
 public:
  /// Parameters in the given order, uninitialised. With a sharing, this process holds its part of
  /// them. Throws c10::Error unless the operands, in order, cover every parameter once.
  FlatParameters(const std::vector<ParameterSpec>& parameters,
                 const std::vector<OperandSpec>& operands, torch::TensorOptions options,
                 std::shared_ptr<Sharing> sharing = nullptr);

  /// A view for each OperandSpec: [sum of first axes, other axes]. Where gradients are enabled and
  /// autograd is on, backward adds their gradients to gradient(), which the sharing sums over
  /// the processes. With several shards, every process must call it.
  std::vector<torch::Tensor> gather() const;

  const std::vector<ParameterSpec>& parameters() const { return parameters_; }
  /// Offset of a parameter's first element in the block.
  int64_t offset(size_t index) const { return offsets_.at(index); }
  int64_t numel() const { return numel_; }

  torch::ScalarType dtype() const;
  /// The elements that this process holds: all, or with several shards its part.
  Range held() const;
  /// The elements of held() that this process updates: all, or with several replicas its stretch.
  Range own() const;
  /// The values of own(), without a graph: [own().size()].
  torch::Tensor own_values() const;
  /// Starts to send the updated values of own() to the replicas, which wait for them at their next
  /// use. Every process must call it.
  void publish();
  /// Writes the elements of a parameter that this process holds. values: in the parameter's shape.
  void assign(size_t index, const torch::Tensor& values);
  /// All values, without a graph: [numel]. With several shards, every process must call it.
  torch::Tensor flat() const;
  /// A view of a parameter's values, in its shape, without a graph. Throws std::out_of_range for a
  /// bad index, and c10::Error where this process does not hold the whole block.
  torch::Tensor parameter(size_t index) const;

  /// Lets gather() build a graph and sum gradients. Without it the parameters are frozen.
  void enable_gradient();
  bool has_gradient() const;
  /// The sum of the gradients of own() since zero_gradient(): [own().size()] float32 (float64 for
  /// float64). After Sharing::finish(), the sum over all processes. Undefined where frozen.
  torch::Tensor gradient() const;
  /// Without a sharing, this frees the buffer until backward arrives here: by then most of a step's
  /// activations are freed, and each step has both less than whole.
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

/// Initialises the parameters, each with a generator that is seeded by seed and name only.
void initialize(FlatParameters& block, uint64_t seed);

}  // namespace regroup
