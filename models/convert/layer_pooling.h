// models/convert/layer_pooling.h: which K/V heads of a layer are grouped, and by which method they
// are pooled, as a plan says.
#pragma once

#include <cstdint>
#include <string>

#include "framework/settings/settings.h"
#include "models/convert/calibration.h"
#include "models/convert/methods.h"
#include "models/convert/pool_layer.h"
#include "models/model_folder.h"

namespace regroup {

enum class Grouping { kNeighbours, kSimilar };

/// By their names in configs and options.
const EnumNames<Grouping>& groupings();

class LayerPooling {
 public:
  /// seed: of the method random. Throws a request Error for an unknown method.
  LayerPooling(const std::string& method, Grouping grouping, uint64_t seed);

  /// What the method sees of a layer. pass: the calibration at that layer; null without text.
  MethodContext context(int64_t layer, const CalibrationPass* pass) const;
  Partition partition(const LayerProjections& layer, int64_t n_kv_head,
                      const MethodContext& context) const;
  const ConversionMethod& method() const { return method_; }

 private:
  const ConversionMethod& method_;
  Grouping grouping_;
  uint64_t seed_;
};

}  // namespace regroup
