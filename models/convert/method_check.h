// models/convert/method_check.h: what a method promises, tried on a model's own heads.
#pragma once

#include "models/convert/pool_layer.h"

namespace regroup {

/// Throws Error where the method is not exact to rounding on what it must be exact on: a group of
/// one head (but where it draws anew), and, for methods that turn heads (those that gain from
/// calibration), copies of the layer's first head, keys turned by an angle a plane and values by an
/// orthogonal matrix.
void check_method(const LayerProjections& layer, const ConversionMethod& method,
                  const MethodContext& context);

/// n copies of the group's first K/V head, turned so, with the query heads of n groups alike.
HeadGroup turned_copies(const HeadGroup& group, int64_t n, uint64_t seed);

}  // namespace regroup
