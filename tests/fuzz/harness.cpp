// What libFuzzer calls in every target.
#include <ATen/Parallel.h>

#include <cstdint>

#include "framework/errors/error.h"
#include "framework/progress/console.h"
#include "tests/fuzz/fuzz_target.h"

namespace regroup::fuzz {

const testing::TempFolder& input_folder() {
  static const testing::TempFolder folder;
  return folder;
}

}  // namespace regroup::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  regroup::console().set_verbosity(regroup::Verbosity::kNothing);
  at::set_num_threads(1);
  regroup::fuzz::read_input(regroup::fuzz::good_input());
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    regroup::fuzz::read_input({reinterpret_cast<const char*>(data), size});
  } catch (const regroup::Error&) {
  }
  return 0;
}
