// tests/support/main.cpp: the test program's main.
#define CATCH_CONFIG_RUNNER
#include "framework/progress/console.h"
#include "tests/support/catch_torch.h"

int main(int argc, char** argv) {
  regroup::console().set_verbosity(regroup::Verbosity::kWarnings);  // no progress between results
  return Catch::Session().run(argc, argv);
}
