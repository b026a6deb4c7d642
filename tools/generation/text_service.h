// tools/generation/text_service.h: the source of text_service.py, which is part of the binary.
#pragma once

#include <string_view>

namespace regroup {

extern const std::string_view kTextService;

}  // namespace regroup
