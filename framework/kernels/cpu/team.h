// framework/kernels/cpu/team.h: threads for loops of microseconds. A decoded token is hundreds of
// such loops; an OpenMP thread that sleeps between them wakes in up to 50 µs on a virtual machine,
// and one that spins takes the processor from other programs.
#pragma once

#include <cstdint>
#include <functional>

namespace regroup::kernels::cpu {

/// As at::parallel_for: calls run(begin, end) for parts of [0, n), each of at least grain numbers
/// where there are several, on up to at::get_num_threads() threads, and returns when all are done.
/// Serial inside a parallel loop, and while another thread is in here. Throws what run throws.
void brief_parallel_for(int64_t n, int64_t grain,
                        const std::function<void(int64_t begin, int64_t end)>& run);

}  // namespace regroup::kernels::cpu
