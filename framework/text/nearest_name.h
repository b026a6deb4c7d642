// framework/text/nearest_name.h: the known name that a misspelled one probably means.
#pragma once

#include <string>
#include <vector>

namespace regroup {

/// The known name with the fewest edits (insert, delete, replace, swap neighbours) from `name`. A
/// name with the right last part in the wrong section ("train.lr" for "optim.lr") is one edit away.
/// Empty when `known` is empty.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

/// " (did you mean X?)" with the nearest known name; empty when there is none.
std::string did_you_mean(const std::string& name, const std::vector<std::string>& known);

}  // namespace regroup
