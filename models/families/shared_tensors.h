// models/families/shared_tensors.h: tensor names that many architectures have in common with Llama.
#pragma once

#include <vector>

#include "models/families/family.h"

namespace regroup {

/// Llama's tensors, with `own` in place of those that hold the same roles. A role that a model of
/// the family never has may stay.
std::vector<TensorRule> llama_tensors(const std::vector<TensorRule>& own = {});
/// The rotary frequencies that older files store, per layer or once.
std::vector<StoredBuffer> rotary_buffers();

}  // namespace regroup
