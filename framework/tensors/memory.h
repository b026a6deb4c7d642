// framework/tensors/memory.h: memory that the process keeps between steps. By default each large
// CPU tensor takes new pages from the kernel, and faulting them in costs up to a fifth of a step.
#pragma once

namespace regroup {

/// Keeps the pages of freed large tensors (caching_allocator.h), as huge pages, and makes the C
/// library keep other freed memory. Call it first in main: it affects only later allocations.
void keep_memory_between_steps();

}  // namespace regroup
