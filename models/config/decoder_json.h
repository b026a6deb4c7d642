// models/config/decoder_json.h: a decoder's config as JSON, from one list of fields per type.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "models/config/decoder_config.h"

namespace regroup {

/// Every field by its name, nested as the types are; numbers read back exactly. flatten() of it
/// names each field by its path.
nlohmann::json decoder_json(const DecoderConfig& config);
/// The inverse. Throws Error, with `where` in front, for a value that is missing, unknown, or of
/// another type than the field's. What the numbers mean is not checked.
DecoderConfig decoder_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace regroup
