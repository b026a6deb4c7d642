// framework/data/token_ids.h: token ids as text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace regroup {

/// Ids divided by blanks or line ends, as a program printed them. where: that program, for the
/// Error that anything but ids from 0 to 2^32 - 1 gives.
std::vector<int64_t> parse_token_ids(const std::string& text, const std::string& where);

}  // namespace regroup
