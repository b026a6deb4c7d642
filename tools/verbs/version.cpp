#include <dlfcn.h>

#include <string>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/cpu/Utils.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/util/StringUtil.h>
#include <hdf5.h>
#include <torch/version.h>

#include "tools/verbs/verbs.h"

namespace regroup {
namespace {

/// A function of a library that LibTorch may have brought along; null when it did not.
template <class Function>
Function loaded_function(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

std::string hdf5_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return c10::str(major, ".", minor, ".", release);
}

/// CUDA's and NCCL's numbers: 1000 major + 10 minor, and 10000 major + 100 minor + patch.
std::string cuda_version() {
  const auto runtime_version = loaded_function<int (*)(int*)>("cudaRuntimeGetVersion");
  int version = 0;
  if (!runtime_version || runtime_version(&version) != 0) return "cpu build";
  return c10::str(version / 1000, ".", version % 1000 / 10);
}

std::string nccl_version() {
  const auto get_version = loaded_function<int (*)(int*)>("ncclGetVersion");
  int version = 0;
  if (!get_version || get_version(&version) != 0) return "cpu build";
  return c10::str(version / 10000, ".", version % 10000 / 100, ".", version % 100);
}

std::string cpu_capability() {
  constexpr std::pair<const char*, const char*> kInstructionSets[] = {
      {"avx512_bf16", "AVX512_BF16"}, {"amx_bf16", "AMX_BF16"}, {"bf16", "BF16"}};
  const auto found = at::cpu::get_cpu_capabilities();
  std::string text;
  const auto name = found.find("cpu_name");
  if (name != found.end() && name->second.isString()) text += name->second.toStringRef() + ", ";
  text += at::get_cpu_capability();
  for (const auto& [key, printed] : kInstructionSets) {
    const auto has = found.find(key);
    if (has != found.end() && has->second.isBool() && has->second.toBool())
      text += c10::str(", ", printed);
  }
  return text;
}

std::string devices() {
  std::string text = c10::str("cpu (", at::get_num_threads(), " threads)");
  const int n_gpu = at::detail::getCUDAHooks().getNumGPUs();
  for (int i = 0; i < n_gpu; ++i) text += c10::str(", cuda:", i);
  return text;
}

}  // namespace

std::string version_text() {
  return c10::str("Regroup ", REGROUP_VERSION, "\nLibTorch ", TORCH_VERSION, "\nCUDA ",
                  cuda_version(), "\nNCCL ", nccl_version(), "\nHDF5 ", hdf5_version(), "\nCPU ",
                  cpu_capability(), "\ndevices ", devices(), "\n");
}

}  // namespace regroup
