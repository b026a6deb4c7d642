#include "framework/tensors/memory.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <limits>

#include "framework/tensors/caching_allocator.h"

namespace regroup {

void keep_memory_between_steps() {
  constexpr int kLargestOnHeap = 64 << 20;
  constexpr int kGrowthBytes = 4 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargestOnHeap);  // also keeps the memory that libraries free
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, kGrowthBytes);
  c10::SetCPUAllocator(&CachingAllocator::instance(), /*priority=*/1);
}

}  // namespace regroup
