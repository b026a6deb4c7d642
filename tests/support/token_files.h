// tests/support/token_files.h: small token files, valid or malformed.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "framework/files/hdf5_file.h"

namespace regroup::testing {

/// The content of a token file. The default is one small valid split.
struct TokenFile {
  struct Split {
    at::Tensor tokens;  // int64
    std::vector<int64_t> offsets;
    std::optional<int64_t> bytes;
  };

  int64_t format_version = 1;
  std::optional<int64_t> vocab_size = 10;
  int64_t eos_id = 0;
  c10::ScalarType token_dtype = at::kUInt16;
  std::map<std::string, Split> splits = {{"train", {at::tensor({1, 2, 0}, at::kLong), {0, 3}, 4}}};

  /// Writes the file, lets `alter` add to it, and returns its path.
  std::filesystem::path write(const std::filesystem::path& path,
                              const std::function<void(Hdf5File&)>& alter = {}) const {
    auto file = Hdf5File::create(path);
    file.set_attribute("/", "format_version", format_version);
    if (vocab_size) file.set_attribute("/", "vocab_size", *vocab_size);
    file.set_attribute("/", "eos_id", eos_id);
    file.set_attribute("/", "tokenizer", std::string("{}"));
    file.set_attribute("/", "source", std::string("a test"));
    for (const auto& [name, split] : splits) {
      const std::string group = "/" + name;
      file.write(group + "/tokens", split.tokens.to(token_dtype));
      file.write(group + "/offsets", at::tensor(split.offsets, at::kLong).view(at::kUInt64));
      if (split.bytes) file.set_attribute(group, "bytes", *split.bytes);
    }
    if (alter) alter(file);
    file.close();
    return path;
  }
};

}  // namespace regroup::testing
