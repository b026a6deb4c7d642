#include "framework/memory.h"

#include <malloc.h>

#include <cstdlib>
#include <limits>

namespace regroup {

void keep_memory_between_steps() {
  constexpr int kGrowthBytes = 64 << 20;
  mallopt(M_MMAP_MAX, 0);  // large blocks too come from the heap, where they stay
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, kGrowthBytes);
  setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
}

}  // namespace regroup
