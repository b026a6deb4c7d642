// models/convert/convert.h: a checkpoint to one with fewer K/V heads, a layer at a time; everything
// but attention's projections bit for bit.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "framework/settings/settings.h"
#include "models/convert/calibration.h"
#include "models/hf_checkpoint.h"

namespace regroup {

enum class Grouping { kNeighbours, kSimilar };

/// By the names of configs and options.
const EnumNames<Grouping>& groupings();

struct ConversionPlan {
  std::vector<int64_t> n_kv_head =
      {};  // one for all layers, or one a layer; empty with a kv_budget
  std::optional<double> kv_budget =
      {};  // share of the source's K/V bytes to keep, layers as fits best
  std::string method = "mean";
  Grouping grouping = Grouping::kNeighbours;
  RefitKind refit = RefitKind::kNone;
  std::filesystem::path calibration = {};          // token file, its /train; empty: none
  std::optional<int64_t> calibration_tokens = {};  // 32768, or all there are if fewer, unless told
  bool verify = false;  // measure errors a layer and the likeness of predictions
  uint64_t seed = 0;    // of the method random

  /// True where text would change the result.
  bool gains_from_text() const;
};

struct ConversionReport {
  struct Layer {
    Partition groups;  // of the source's K/V heads
    std::optional<LayerError> error;
    std::optional<RefitOutcome> refit;
  };
  std::vector<Layer> layers;
  std::optional<Likeness> likeness;  // on held-out calibration text
  int64_t calibration_tokens = 0;    // looked at, held-out ones included
};

/// The source's config with these K/V heads, one number or one a layer. Throws a request Error when
/// a number does not divide the query heads or the layer's present K/V heads.
DecoderConfig converted_config(const DecoderConfig& source, const std::vector<int64_t>& n_kv_head);

class Conversion {
 public:
  /// Reads the calibration text, and checks that the plan can be carried out: throws a request
  /// Error where heads do not divide, no choice meets the budget, or what the plan asks for needs
  /// calibration; an Error where the text does not fit the model. source must outlive this.
  Conversion(const ModelFolder& source, ConversionPlan plan);

  /// What a model that this wrote says of itself, but for n_kv_head under a budget.
  Provenance provenance() const;
  /// Whether a model was made by this plan from this source.
  bool made(const ModelFolder& model) const;
  /// Writes the converted model into folder, which exists, each tensor in the source's dtype. Holds
  /// one layer at a time. All processes of the world call it alike, dividing the calibration text;
  /// the first writes, and the others may return before it is done.
  ConversionReport write(const std::filesystem::path& folder, World& world) const;

 private:
  double flops() const;

  const ModelFolder& source_;
  ConversionPlan plan_;
  std::optional<CalibrationText> text_;
  std::string calibration_fingerprint_;
};

}  // namespace regroup
