#include <iostream>

#include "framework/error.h"

int main() {
  const regroup::Error error("example", "nothing is wrong", "Read on.");
  std::cout << error.what() << '\n';
}
