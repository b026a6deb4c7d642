// tools/cmake/precompiled.h: the heavy headers, compiled once for all targets. <torch/types.h> is
// all of LibTorch's tensors at two thirds of the load that <torch/torch.h> puts on every file.
// Sources still include what they use; without a precompiled header they compile too, only slower.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>
