// models/families/modeling_regroup.h: the text of modeling_regroup.py.
#pragma once

#include <string_view>

namespace regroup {

extern const std::string_view kModelingRegroup;

}  // namespace regroup
