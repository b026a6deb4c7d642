// framework/distributed/backends.h: the seam to c10d's engines. What differs between Gloo and NCCL
// stands in the source behind this header and nowhere else.
#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "framework/distributed/launch.h"
#include "framework/settings/settings.h"

namespace regroup {

enum class BackendKind { kAuto, kNccl, kGloo };

/// By the names of configs.
const EnumNames<BackendKind>& backend_kinds();

/// Throws a request Error where NCCL is asked for and this build or the device has none.
void check_backend(BackendKind kind, c10::Device device);

/// What a group of processes is and how it meets. Keys in the store must be the group's own.
struct GroupPlace {
  c10::intrusive_ptr<c10d::Store> store;
  int rank, size;
  std::chrono::milliseconds timeout;  // of a collective
};

/// Gloo, over the address of this node by which it reaches the launch's.
c10::intrusive_ptr<c10d::Backend> make_gloo(const GroupPlace& place, const Launch& launch);

/// The engine for tensors on this device: kAuto is NCCL on GPUs and Gloo on CPUs.
c10::intrusive_ptr<c10d::Backend> make_backend(BackendKind kind, c10::Device device,
                                               const GroupPlace& place, const Launch& launch);

}  // namespace regroup
