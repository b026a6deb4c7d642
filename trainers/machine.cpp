#include "trainers/machine.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <sys/resource.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "framework/kernels/matmul.h"
#include "framework/text/human.h"

namespace regroup {

namespace {

/// The model of the node's first GPU, as the driver names it; empty without a GPU.
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

constexpr int64_t kSquare = 1024;  // of a square product, 2.1 GFLOP
constexpr int kSettledRounds = 5;
constexpr double kNoticeableRise = 1.01;

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

PeakFlops::PeakFlops(torch::TensorOptions options, int64_t rows, int64_t d_model, int64_t d_ff)
    : options_(options) {
  if (options.device().is_cuda() && options.dtype() == torch::kBFloat16) {
    if (const auto known = known_peak_flops(gpu_name())) {
      best_ = *known;
      return;
    }
  }
  const int64_t most_rows = std::max<int64_t>(1, kSquare * kSquare * kSquare / (d_model * d_ff));
  products_ = {{kSquare, kSquare, kSquare}, {std::min(rows, most_rows), d_model, d_ff}};
}

void PeakFlops::measure(double seconds) {
  if (products_.empty()) return;
  const torch::NoGradGuard no_grad;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> operands;  // freed again: training needs it
  for (const auto& [rows, inner, columns] : products_) {
    operands.emplace_back(torch::ones({rows, inner}, options_),
                          torch::ones({columns, inner}, options_));
  }
  const auto better_of_both = [&] {
    double best = 0;
    for (const auto& [a, b] : operands) {
      const double start = steady_seconds();
      matmul_nt(a, b)[0][0].item<float>();  // item waits for the device
      const auto flops = 2.0 * static_cast<double>(a.numel() * b.size(0));
      best = std::max(best, flops / (steady_seconds() - start));
    }
    return best;
  };
  best_ = settled_best(best_, better_of_both, seconds);
}

double settled_best(double best, const std::function<double()>& measure, double seconds,
                    const std::function<double()>& clock) {
  const double until = clock() + seconds;
  int settled = 0;
  while (settled < kSettledRounds) {
    const double found = measure();
    settled = found > best * kNoticeableRise ? 0 : settled + 1;
    best = std::max(best, found);
    if (clock() >= until) break;
  }
  return best;
}

std::string mfu_text(double mfu) {
  const std::string percent = fixed(100 * mfu, 0);
  return "MFU " + percent + " %" +
         (mfu >= 1.005 ? " (above the measured peak, which is too low)" : "");
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
