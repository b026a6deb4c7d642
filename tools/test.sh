#!/usr/bin/env bash
# Sets up, builds and runs all tests: the unit tests under sanitizers, then everything as users have it.
# May be run again, and then does only what is left to do.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh --tests

jobs=$(nproc)
for preset in asan release; do
  cmake --preset "$preset"
  cmake --build --preset "$preset" --parallel "$jobs"
done

status=0
ctest --preset asan --parallel "$jobs" || status=$?
ctest --preset release --parallel "$jobs" || status=$?
exit "$status"
