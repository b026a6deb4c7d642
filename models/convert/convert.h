// models/convert/convert.h: converts a checkpoint to one with fewer K/V heads, one layer at a time.
// All tensors except attention's projections stay bit for bit.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "models/convert/calibration.h"
#include "models/convert/layer_pooling.h"
#include "models/model_folder.h"

namespace regroup {

struct ConversionPlan {
  std::vector<int64_t> n_kv_head =
      {};  // one for all layers, or one per layer; empty with a kv_budget
  std::optional<double> kv_budget =
      {};  // share of the source's K/V bytes to keep, divided over layers by kv_budget.h
  std::string method = "mean";
  Grouping grouping = Grouping::kNeighbours;
  RefitKind refit = RefitKind::kNone;
  std::filesystem::path calibration = {};  // token file, of which /train is read; empty: none
  std::optional<int64_t> calibration_tokens = {};  // default: 32768, or all if there are fewer
  bool allow_other_tokenizer = false;              // of the calibration text
  bool verify = false;  // measure each layer's error and how alike the predictions are
  uint64_t seed = 0;    // of the method random

  /// True where calibration text would change the result.
  bool gains_from_text() const;
};

struct ConversionReport {
  struct Layer {
    Partition groups;  // of the source's K/V heads, one for each converted head
    std::optional<LayerError> error;
    std::optional<RefitOutcome> refit;
  };
  std::vector<Layer> layers;
  std::optional<Likeness> likeness;  // on held-out calibration text
  int64_t calibration_tokens = 0;    // used, including those held out
};

/// The source's config with these K/V heads, one number or one per layer. Throws a request Error
/// when a number does not divide the K/V heads that its layer has in the source.
DecoderConfig converted_config(const DecoderConfig& source, const std::vector<int64_t>& n_kv_head);

class Conversion {
 public:
  /// Reads the calibration text and checks the plan. Throws a request Error where heads do not
  /// divide, no choice meets the budget, or the plan needs calibration text and names none, or
  /// text with another tokenizer; an Error where the text does not fit the model. source must
  /// outlive this.
  Conversion(const ModelFolder& source, ConversionPlan plan);

  /// The provenance of the model that write() writes; under a budget without its n_kv_head.
  Provenance provenance() const;
  /// True if the model was made from this source by this plan.
  bool made(const ModelFolder& model) const;
  /// Writes the converted model into an existing folder, each tensor in the source's dtype. Holds
  /// one layer at a time. Every process of the world must call it; they divide the calibration
  /// text. Rank 0 writes, and other processes may return before it is done.
  ConversionReport write(const std::filesystem::path& folder, World& world) const;

 private:
  double flops() const;

  const ModelFolder& source_;
  ConversionPlan plan_;
  std::optional<CalibrationText> text_;
  std::string calibration_fingerprint_;
};

}  // namespace regroup
