// framework/tensors/memory.h: large CPU tensors come and go every step; by default each takes fresh
// pages from the kernel, and faulting them in again costs up to a fifth of a step.
#pragma once

namespace regroup {

/// Lets large tensors keep their pages when they are freed (caching_allocator.h), in huge pages,
/// and the C library what else is freed. Call it first in main: it counts for what is allocated
/// afterwards.
void keep_memory_between_steps();

}  // namespace regroup
