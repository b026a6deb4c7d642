// framework/text/nearest_name.h: the known name that a misspelled one probably means.
#pragma once

#include <string>
#include <vector>

namespace regroup {

/// The known name with the fewest edits (insert, delete, replace, swap neighbours) from `name`, at
/// most half as many as its last part has letters, or one; empty when there is none. A known last
/// part in another section ("train.lr" for "optim.lr"), or written out ("learning_rate"), is one
/// edit away.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

/// " (did you mean X?)" with the nearest known name; empty when there is none.
std::string did_you_mean(const std::string& name, const std::vector<std::string>& known);

}  // namespace regroup
