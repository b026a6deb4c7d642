// framework/text/growing_text.h: what of a text that still grows is final.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace regroup {

/// Where the first of the stop texts in the text begins; npos where it contains none.
size_t find_first_stop(std::string_view text, const std::vector<std::string>& stops);

/// The part of a decoded text that stays as it is when more tokens follow: without U+FFFD at its
/// end, which may become a character, and without an end with which a stop text may begin.
std::string_view settled_part(std::string_view text, const std::vector<std::string>& stops);

}  // namespace regroup
