#!/usr/bin/env bash
# Sets up, builds and runs all tests: the unit tests under sanitizers and a minute of each fuzz target, then
# everything as users have it.
# May be run again, and then does only what is left to do.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh --tests

jobs=$(nproc)
for preset in asan release; do
  cmake --preset "$preset"
  cmake --build --preset "$preset" --parallel "$jobs"
done

failed=()
for preset in asan release; do
  ctest --preset "$preset" --parallel "$jobs" || failed+=("$preset")
done
for preset in "${failed[@]}"; do
  echo "failed in build/$preset:"
  cat "build/$preset/Testing/Temporary/LastTestsFailed.log"
done
((${#failed[@]} == 0))
