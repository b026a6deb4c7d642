#include "trainers/machine.h"

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
  CHECK(peak_flops(torch::TensorOptions(torch::kFloat32)) > 1e8);
  CHECK_FALSE(peak_device_bytes(torch::kCPU));
}

}  // namespace
}  // namespace regroup
