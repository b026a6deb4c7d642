// framework/settings/arguments.h: splits a command line into options and values, and collects every
// mistake in it.
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

/// Reads `--name=value`, `--name value` and, for settings that allow it, `--name` alone; every word
/// after `--` is positional. Names cannot be abbreviated. Adds to `complaints`: unknown options,
/// with the nearest known one, and missing or superfluous values.
Arguments parse_arguments(const std::vector<std::string>& arguments,
                          const std::vector<const Setting*>& known, Complaints* complaints);

}  // namespace regroup
