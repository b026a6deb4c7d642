// tests/fuzz/hdf5_recipe.h: HDF5 files that the library takes, changed as an input's bytes say, so
// that what is fuzzed is our reading and not the library's parser.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace regroup::fuzz {

/// A good file. The input changes it: objects are left out, get another type, shape or storage, or
/// other values.
struct Hdf5Recipe {
  struct Dataset {
    std::string name;
    hid_t type;
    std::vector<int64_t> shape;
    std::vector<int64_t> values;
  };
  struct Integer {
    std::string object, name;
    int64_t value;
  };
  struct Text {
    std::string object, name, value;
  };

  std::vector<Dataset> datasets;
  std::vector<Integer> integers;
  std::vector<Text> texts;

  /// An empty input gives the good file.
  void write(const std::filesystem::path& file, std::string_view input) const;
};

}  // namespace regroup::fuzz
