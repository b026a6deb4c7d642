// framework/memory.h: large CPU tensors come and go every step; by default each takes fresh pages
// from the kernel, and faulting them in again costs up to a fifth of a step.
#pragma once

namespace regroup {

/// Tells the C library to keep freed memory for the next step, and LibTorch to ask for huge pages.
/// Call it first in main: it counts for what is allocated afterwards.
void keep_memory_between_steps();

}  // namespace regroup
