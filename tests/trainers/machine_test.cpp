#include "trainers/machine.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("GPUs' figures by their names", "[machine]") {
  CHECK(known_peak_flops("NVIDIA H100 80GB HBM3") == 989e12);
  CHECK(known_peak_flops("NVIDIA H100 PCIe") == 756e12);
  CHECK(known_peak_flops("NVIDIA A100-SXM4-80GB") == 312e12);
  CHECK(known_peak_flops("NVIDIA L40S") == 362e12);
  CHECK(known_peak_flops("NVIDIA L4") == 121e12);
  CHECK_FALSE(known_peak_flops("NVIDIA GeForce GTX 1080"));
  CHECK_FALSE(known_peak_flops(""));
}

TEST_CASE("the CPU's peak is measured, and its memory no device's", "[machine]") {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    PeakFlops peak(torch::TensorOptions(dtype), /*rows=*/100, /*d_model=*/32, /*d_ff=*/48);
    peak.measure(/*seconds=*/0);
    const double first = peak.value();
    CHECK(first > 1e7);
    peak.measure(/*seconds=*/0);
    CHECK(peak.value() >= first);
  }
  CHECK_FALSE(peak_device_bytes(torch::kCPU));
}

/// What settled_best makes of these findings, one a second, the last again and again; and how many
/// it took.
std::pair<double, int> settled(double best, std::vector<double> findings, double seconds) {
  int n = 0;
  const auto measure = [&] {
    return findings[std::min<size_t>(static_cast<size_t>(n++), findings.size() - 1)];
  };
  best = settled_best(best, measure, seconds, [&] { return static_cast<double>(n); });
  return {best, n};
}

TEST_CASE("a peak is measured until the best stops rising", "[machine]") {
  CHECK(settled(0, {10}, 100) == std::pair(10.0, 6));
  CHECK(settled(0, {10, 9, 8, 12, 3}, 100) == std::pair(12.0, 9));
  CHECK(settled(20, {10}, 100) == std::pair(20.0, 5));  // what was found before counts
}

TEST_CASE("a peak that keeps rising is measured for as long as it may take", "[machine]") {
  std::vector<double> rising;
  for (int i = 1; i < 100; ++i) rising.push_back(i);
  CHECK(settled(0, rising, 8) == std::pair(8.0, 8));
  CHECK(settled(0, {10}, 0) == std::pair(10.0, 1));  // once at least
}

TEST_CASE("an MFU above 100 % is not printed without a word", "[machine]") {
  CHECK(mfu_text(0.494) == "MFU 49 %");
  CHECK(mfu_text(1.004) == "MFU 100 %");
  CHECK(mfu_text(1.04) == "MFU 104 % (above the measured peak, which is too low)");
}

}  // namespace
}  // namespace regroup
