// framework/settings/arguments.h: a command line cut into options and values, every mistake in it
// collected.
#pragma once

#include <string>
#include <vector>

#include "framework/errors/error.h"
#include "framework/settings/settings.h"

namespace regroup {

struct Arguments {
  struct Option {
    std::string name;
    std::string value;
  };
  std::vector<Option> options;  // in the order given
  std::vector<std::string> positional;
};

/// Reads `--name=value`, `--name value` and, for settings that allow it, `--name` alone; after `--`
/// all is positional. Names are never abbreviated. Unknown options (with the nearest known one),
/// missing and unwanted values are added to `complaints`.
Arguments parse_arguments(const std::vector<std::string>& arguments,
                          const std::vector<const Setting*>& known, Complaints* complaints);

}  // namespace regroup
