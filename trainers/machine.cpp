#include "trainers/machine.h"

#include <sys/resource.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <fstream>

#include "framework/matmul.h"
#include "framework/progress.h"

namespace regroup {

double measured_peak_flops(torch::TensorOptions options) {
  constexpr int64_t kSize = 1024;
  constexpr int kRounds = 5;
  const torch::NoGradGuard no_grad;
  const auto a = torch::ones({kSize, kSize}, options), b = torch::ones({kSize, kSize}, options);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double start = steady_seconds();
    matmul_nt(a, b).sum().item<float>();  // item waits for the device
    best = std::max(best, 2.0 * kSize * kSize * kSize / (steady_seconds() - start));
  }
  return best;
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;  // Linux counts KiB
}

}  // namespace regroup
