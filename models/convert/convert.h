// models/convert/convert.h: a checkpoint to one with fewer K/V heads, a layer at a time; everything
// else bit for bit.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "models/hf_checkpoint.h"

namespace regroup {

struct ConversionPlan {
  std::vector<int64_t> n_kv_head;  // one for all layers, or one a layer
  std::string method = "mean";
  uint64_t seed = 0;  // of the method random
};

/// The source's config with the plan's K/V heads. Throws a request Error when a number does not
/// divide the query heads or the layer's present K/V heads.
DecoderConfig converted_config(const DecoderConfig& source, const std::vector<int64_t>& n_kv_head);

/// Writes the converted model into folder, which exists, each tensor in the source's dtype. Holds
/// one layer at a time.
void convert_model(const ModelFolder& source, const ConversionPlan& plan,
                   const std::filesystem::path& folder);

}  // namespace regroup
