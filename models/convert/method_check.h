// models/convert/method_check.h: checks on a model's heads that a method keeps its promises.
#pragma once

#include "models/convert/pool_layer.h"

namespace regroup {

/// Throws Error where the method is not exact to rounding on groups on which it must be: a group of
/// one head (except for methods that draw heads), and, for methods that rotate heads (those that
/// use moments), copies of the layer's first head whose keys are rotated by an angle per plane and
/// whose values are rotated by an orthogonal matrix.
void check_method(const LayerProjections& layer, const ConversionMethod& method,
                  const MethodContext& context);

/// n copies of the group's first K/V head, rotated in this way, each with the same query heads.
HeadGroup turned_copies(const HeadGroup& group, int64_t n, uint64_t seed);

}  // namespace regroup
