// models/card_license.h: the license that a model's card states.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace regroup {

/// license, license_name and license_link of the YAML header of the folder's README.md, those that
/// it has as plain values; none where there is no such header.
std::map<std::string, std::string> card_license(const std::filesystem::path& folder);

}  // namespace regroup
