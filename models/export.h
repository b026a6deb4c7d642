// models/export.h: rewrites a model folder for deployment in another layout, dtype or file format.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>

#include "models/model_folder.h"
#include "models/model_writer.h"

namespace regroup {

enum class ExportFormat { kHuggingFace, kHdf5 };

/// kGrouped keeps every K/V head once, in the architecture's own form where its class has a field
/// for them and in regroup_family()'s where not. kExpanded repeats K/V heads until the class can
/// hold them: up to the least common multiple of the layers' counts, or up to the query heads where
/// the class has no field for K/V heads. The model computes the same function.
enum class ExportLayout { kGrouped, kExpanded };

struct ExportPlan {
  ExportFormat format = ExportFormat::kHuggingFace;
  ExportLayout layout = ExportLayout::kGrouped;
  std::optional<torch::ScalarType> dtype = std::nullopt;  // default: each tensor's own
  int64_t max_shard_bytes = kDefaultShardBytes;           // of kHuggingFace
};

/// The decoder that an export of the model has.
DecoderConfig exported_config(const ModelFolder& source, ExportLayout layout);

/// Writes the model into folder, which exists: config.json, tokenizer files, and the weights as
/// safetensors or as model.h5 (a dataset a tensor under Hugging Face's names, config.json's text in
/// the attribute "config.json" of "/"). Holds one tensor at a time. Throws Error for a value that
/// the plan's dtype cannot hold.
void export_model(const ModelFolder& source, const ExportPlan& plan,
                  const std::filesystem::path& folder);

}  // namespace regroup
