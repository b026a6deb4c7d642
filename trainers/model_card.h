// trainers/model_card.h: the README.md of an exported model, as the Hugging Face Hub reads it.
#pragma once

#include <string>

#include "models/export.h"

namespace regroup {

/// Markdown with a YAML header (base_model, license, tags): where the model comes from, how it was
/// converted and trained, the evaluation of the run that it ended, and how to load it. name: the
/// model's.
std::string model_card(const ModelFolder& source, const ExportPlan& plan, const std::string& name);

}  // namespace regroup
