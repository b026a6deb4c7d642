#include "trainers/machine.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <sys/resource.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "framework/kernels/matmul.h"
#include "framework/progress/progress.h"

namespace regroup {

namespace {

/// The model of the node's first GPU, as its driver tells; empty where there is none.
std::string gpu_name() {
  std::error_code none;
  for (const auto& gpu : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", none)) {
    std::ifstream information(gpu.path() / "information");
    for (std::string line; std::getline(information, line);) {
      if (line.starts_with("Model:")) return line.substr(line.find_first_not_of(" \t", 6));
    }
  }
  return "";
}

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

}  // namespace

std::optional<double> known_peak_flops(const std::string& gpu) {
  // Data sheets, without sparsity. The first that the name contains.
  static const std::pair<const char*, double> kTeraflops[] = {
      {"B200", 2250}, {"H200", 989}, {"GH200", 989}, {"H100 PCIe", 756}, {"H100", 989},
      {"A100", 312},  {"L40S", 362}, {"L4", 121},    {"A10", 125},       {"RTX 4090", 165},
  };
  for (const auto& [name, teraflops] : kTeraflops) {
    if (gpu.find(name) != std::string::npos) return teraflops * 1e12;
  }
  return std::nullopt;
}

double peak_flops(torch::TensorOptions options) {
  if (options.device().is_cuda() && options.dtype() == torch::kBFloat16) {
    if (const auto known = known_peak_flops(gpu_name())) return *known;
  }
  return measured_peak_flops(options);
}

std::optional<int64_t> peak_device_bytes(torch::Device device) {
  if (device.is_cpu()) return std::nullopt;
  const auto stats = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes.at(0).peak;  // of all pools
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
