// models/export.h: a model folder rewritten for deployment: other layout, number format or file
// format.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

#include "models/hf_checkpoint.h"

namespace regroup {

enum class ExportFormat { kHuggingFace, kHdf5 };

/// kGrouped keeps every K/V head once. kExpanded repeats the K/V heads of each layer up to the
/// least common multiple of the layers' counts, so that one number says them all; the function
/// computed is the same.
enum class ExportLayout { kGrouped, kExpanded };

struct ExportPlan {
  ExportFormat format = ExportFormat::kHuggingFace;
  ExportLayout layout = ExportLayout::kGrouped;
  torch::ScalarType dtype;
  int64_t max_shard_bytes = kDefaultShardBytes;  // of kHuggingFace
};

/// Throws a request Error where the source's K/V heads differ between layers and the plan's layout
/// is kGrouped, which the architecture's Hugging Face class cannot express.
void check_export(const ModelFolder& source, const ExportPlan& plan);

/// Writes the model into folder, which exists: config.json, tokenizer files, and the weights as
/// safetensors or as model.h5 (a dataset a tensor under Hugging Face's names, config.json's text in
/// the attribute "config.json" of "/"). Holds one tensor at a time. Throws Error for a value that
/// the plan's dtype cannot hold.
void export_model(const ModelFolder& source, const ExportPlan& plan,
                  const std::filesystem::path& folder);

}  // namespace regroup
