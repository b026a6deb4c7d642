#include "framework/parameters/flat_parameters.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "framework/kernels/kernels.h"
#include "framework/kernels/operands.h"
#include "framework/tensors/random.h"

namespace regroup {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Shapes = std::vector<std::vector<int64_t>>;

int64_t numel_of(const std::vector<int64_t>& shape) { return c10::multiply_integers(shape); }

std::vector<Tensor> views(const Tensor& flat, const Shapes& shapes,
                          const std::vector<int64_t>& offsets) {
  std::vector<Tensor> result;
  result.reserve(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    result.push_back(flat.narrow(0, offsets[i], numel_of(shapes[i])).view(shapes[i]));
  }
  return result;
}

}  // namespace

struct FlatParameters::Storage {
  std::shared_ptr<Sharing> sharing;  // null: one process
  size_t block = 0;                  // its index in the sharing
  Tensor values;                     // of this process's part, padding included
  Tensor gradient;                   // likewise; undefined while it is 0, unless there is a sharing
  Tensor anchor;                     // an input that makes autograd record gather()
  int uses = 0;                      // gathers of this pass whose gradients are still to come

  Tensor new_gradient() const {
    return torch::empty_like(values, values.options().dtype(kernels::sum_type(values)));
  }
  /// Adds the gradients of the operands, of which an undefined one is 0, at their offsets.
  void add(const variable_list& grads, const Shapes& shapes, const std::vector<int64_t>& offsets) {
    const bool is_first = !sharing && !gradient.defined();
    if (is_first) gradient = new_gradient();
    const auto sum = sharing ? sharing->gradient_buffer(block) : gradient;
    for (size_t i = 0; i < grads.size(); ++i) {
      const auto part = sum.narrow(0, offsets[i], numel_of(shapes[i]));
      if (!grads[i].defined()) {
        if (is_first) part.zero_();
      } else if (is_first) {
        part.copy_(grads[i].flatten());
      } else {
        kernels::accumulate_(part, grads[i].flatten());
      }
    }
  }
  /// This process's part, after all published values have arrived.
  const Tensor& settled() const {
    if (sharing) sharing->wait_published(block);
    return values;
  }
};

/// Returns views of the whole block. Backward adds their gradients to the block's buffer.
struct FlatParameters::Gather : Function<Gather> {
  struct Kept : torch::CustomClassHolder {
    Kept(std::shared_ptr<Storage> storage_, Shapes shapes_, std::vector<int64_t> offsets_)
        : storage(std::move(storage_)), shapes(std::move(shapes_)), offsets(std::move(offsets_)) {}
    std::shared_ptr<Storage> storage;
    Shapes shapes;  // of the operands, and their offsets
    std::vector<int64_t> offsets;
  };

  static variable_list forward(AutogradContext* context, const Tensor&, const Tensor& whole,
                               const c10::intrusive_ptr<Kept>& kept) {
    context->saved_data["kept"] = c10::IValue::make_capsule(kept);
    ++kept->storage->uses;
    return views(whole.detach(), kept->shapes, kept->offsets);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto capsule = context->saved_data["kept"].toCapsule();
    const auto& kept = static_cast<const Kept&>(*capsule);
    auto& storage = *kept.storage;
    storage.add(grads, kept.shapes, kept.offsets);
    if (--storage.uses == 0 && storage.sharing) storage.sharing->reduce(storage.block);
    return {Tensor(), Tensor(), Tensor()};
  }
};

FlatParameters::FlatParameters(const std::vector<ParameterSpec>& parameters,
                               const std::vector<OperandSpec>& operands,
                               torch::TensorOptions options, std::shared_ptr<Sharing> sharing)
    : parameters_(parameters), storage_(std::make_shared<Storage>()) {
  for (const auto& parameter : parameters_) {
    offsets_.push_back(numel_);
    numel_ += numel_of(parameter.shape);
  }
  size_t next = 0;
  for (const auto& operand : operands) {
    const size_t end = next + static_cast<size_t>(operand.n_parameters);
    TORCH_CHECK(next < end && end <= parameters_.size(), "operands reach for parameter ", end,
                " of ", parameters_.size());
    operand_offsets_.push_back(offsets_[next]);
    auto shape = parameters_[next].shape;
    for (++next; next < end; ++next) {
      const auto& below = parameters_[next].shape;
      TORCH_CHECK(torch::IntArrayRef(below).slice(1) == torch::IntArrayRef(shape).slice(1),
                  parameters_[next].name, " ", torch::IntArrayRef(below),
                  " does not fit below the operand's ", torch::IntArrayRef(shape));
      shape[0] += below[0];
    }
    operand_shapes_.push_back(shape);
  }
  TORCH_CHECK(next == parameters_.size(), "operands cover ", next, " of ", parameters_.size(),
              " parameters");
  storage_->sharing = std::move(sharing);
  const auto& shared = storage_->sharing;
  storage_->values =
      torch::empty({shared ? shared->part_size(numel_) : numel_}, options.requires_grad(false));
  if (!shared) return;
  storage_->values.narrow(0, held().size(), storage_->values.numel() - held().size()).zero_();
  storage_->block = shared->add(storage_->values);
}

std::vector<Tensor> FlatParameters::gather() const {
  if (!has_gradient() || !torch::GradMode::is_enabled()) {
    return views(whole(), operand_shapes_, operand_offsets_);
  }
  return Gather::apply(
      storage_->anchor, whole(),
      c10::make_intrusive<Gather::Kept>(storage_, operand_shapes_, operand_offsets_));
}

Tensor FlatParameters::whole() const {
  return storage_->sharing ? storage_->sharing->whole(storage_->block) : storage_->values;
}

torch::ScalarType FlatParameters::dtype() const { return storage_->values.scalar_type(); }

Range FlatParameters::held() const {
  return storage_->sharing ? storage_->sharing->held(numel_) : Range{0, numel_};
}

Range FlatParameters::own() const {
  return storage_->sharing ? storage_->sharing->own(numel_) : Range{0, numel_};
}

Tensor FlatParameters::of_own(const Tensor& part) const {
  const auto stretch = own();
  return part.narrow(0, stretch.begin - held().begin, stretch.size());
}

Tensor FlatParameters::own_values() const { return of_own(storage_->settled()); }

void FlatParameters::publish() {
  if (storage_->sharing) storage_->sharing->publish(storage_->block);
}

Tensor FlatParameters::flat() const { return whole().narrow(0, 0, numel_); }

void FlatParameters::assign(size_t index, const Tensor& values) {
  const auto& shape = parameters_.at(index).shape;
  TORCH_CHECK(values.sizes() == shape, parameters_[index].name, " is ", torch::IntArrayRef(shape),
              ", was given ", values.sizes());
  const int64_t first = offsets_[index];
  const auto held = this->held();
  const int64_t begin = std::max(first, held.begin);
  const int64_t end = std::min(first + values.numel(), held.end);
  if (begin >= end) return;
  storage_->settled()
      .narrow(0, begin - held.begin, end - begin)
      .copy_(values.reshape({-1}).narrow(0, begin - first, end - begin));
}

Tensor FlatParameters::parameter(size_t index) const {
  const auto& shape = parameters_.at(index).shape;
  TORCH_CHECK(held().size() == numel_, parameters_[index].name, " is divided over processes");
  return storage_->settled().narrow(0, offsets_[index], numel_of(shape)).view(shape);
}

void FlatParameters::enable_gradient() {
  storage_->anchor = torch::zeros({0}, storage_->values.options()).requires_grad_();
  if (!storage_->sharing) return;
  storage_->gradient = storage_->new_gradient().zero_();
  storage_->sharing->set_gradient(storage_->block, storage_->gradient);
}

bool FlatParameters::has_gradient() const { return storage_->anchor.defined(); }

Tensor FlatParameters::gradient() const {
  if (!has_gradient()) return Tensor();
  if (!storage_->gradient.defined()) storage_->gradient = storage_->new_gradient().zero_();
  return of_own(storage_->gradient);
}

void FlatParameters::zero_gradient() {
  if (storage_->sharing) {
    storage_->gradient.zero_();
  } else {
    storage_->gradient = Tensor();
  }
  storage_->uses = 0;
}

void initialize(FlatParameters& block, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < block.parameters().size(); ++i) {
    const auto& spec = block.parameters()[i];
    block.assign(i,
                 spec.init_std == 0
                     ? torch::full(spec.shape, spec.init_value)
                     : torch::randn(spec.shape, seeded_generator(seed, spec.name)) * spec.init_std);
  }
}

}  // namespace regroup
