// tests/support/main.cpp: the test program's main.
#define CATCH_CONFIG_RUNNER
#include "tests/support/catch_torch.h"

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
