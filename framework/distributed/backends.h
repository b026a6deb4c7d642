// framework/distributed/backends.h: c10d's engines. The differences between Gloo and NCCL are in
// this header's source and nowhere else.
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

/// By their names in configs.
const EnumNames<BackendKind>& backend_kinds();

/// Throws a request Error where kind needs NCCL and this build or the device does not support it.
void check_backend(BackendKind kind, c10::Device device);

/// A group of processes and its rendezvous. The keys of store must be unique to the group.
struct GroupPlace {
  c10::intrusive_ptr<c10d::Store> store;
  int rank, size;
  std::chrono::milliseconds timeout;  // of a collective
};

/// Gloo, listening at the address by which this node reaches the launch's address.
c10::intrusive_ptr<c10d::Backend> make_gloo(const GroupPlace& place, const Launch& launch);

/// The engine for tensors on this device: kAuto is NCCL on GPUs and Gloo on CPUs.
c10::intrusive_ptr<c10d::Backend> make_backend(BackendKind kind, c10::Device device,
                                               const GroupPlace& place, const Launch& launch);

}  // namespace regroup
