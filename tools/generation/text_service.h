// tools/generation/text_service.h: the source of text_service.py, which is part of the binary.
#pragma once

namespace regroup {

extern const char* const kTextService;

}  // namespace regroup
