// models/convert/kv_budget.h: divides a budget of K/V heads over the layers so that the model loses
// least.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "framework/distributed/world.h"
#include "models/convert/calibration_text.h"
#include "models/convert/layer_pooling.h"
#include "models/model_folder.h"

namespace regroup {

/// One of a layer's choices: the number of K/V heads to keep, and the error that results.
struct HeadChoice {
  int64_t n_kv_head;
  double error;
};

/// One choice per layer, with the least sum of errors among those that keep at most `budget` heads
/// in total (dynamic programming over layers). Empty where even the smallest choices exceed the
/// budget.
std::vector<int64_t> best_allocation(const std::vector<std::vector<HeadChoice>>& layers,
                                     int64_t budget);

/// Throws a request Error where a share of the K/V bytes leaves less than one head per layer.
void check_budget(const DecoderConfig& source, double kv_budget);

/// The number of K/V heads of each layer that together keep at most this share of the source's K/V
/// bytes and lose least: measured on the text, or without text by relative_pooling_error. scratch:
/// a folder for temporary files. Every process of the world must call it.
std::vector<int64_t> heads_within_budget(const ModelFolder& source, double kv_budget,
                                         const LayerPooling& pooling, const CalibrationText* text,
                                         const std::filesystem::path& scratch, World& world);

}  // namespace regroup
